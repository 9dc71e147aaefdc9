"""Fixtures that all tests share: a debug-sized model with random weights, and the footage folder."""

import functools
import os
from pathlib import Path

import pytest
import torch

from reelm import cli
from reelm.core import memory, ray_pool
from reelm.core.controls import Controller
from reelm.core.ray_pool import RayOptions
from reelm.core.token_order import Order
from reelm.generation.generator import VideoGenerator
from reelm.generation.pretrained import ModelConfig, Pretrained, load_pretrained, save_pretrained
from reelm.lm.lm_config import LMConfig
from reelm.lm.text import TextEncoder, train_text
from reelm.lm.transformer import VideoTransformer
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.tokenizer.video_tokenizer import TokenizerConfig, VideoTokenizer

# Several processes at once: threads that wait for each other would take the cores from those that work.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]
# Tests are of torch's blocks, in the processes that they start too, unless OpenVINO is asked for.
os.environ.setdefault("REELM_KERNELS", "torch")
# What was measured on this machine is not for the tests, and not for the processes that they start.
os.environ["REELM_CACHE"] = str(ROOT / "tests" / "no-cache")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def plain_trainings():
    """Keeps trainings from depending on the machine that runs the tests, and from changing this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        patch.setattr(memory, "keep_freed_memory", lambda: None)
        yield


@pytest.fixture(scope="session")
def ray_on_this_machine(tmp_path_factory):
    """Ray, which takes seconds to start, once for all tests; its token lies in a folder of theirs."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        with ray_pool._connected(RayOptions()):
            yield


@pytest.fixture(scope="session")
def debug_checkpoint(tmp_path_factory) -> Path:
    """The folder of a tiny model of clips 32 high and 48 wide at 8 fps with random weights."""
    return _write_debug(tmp_path_factory.mktemp("debug"), "raster")


@pytest.fixture(scope="session")
def coarse_checkpoint(tmp_path_factory) -> Path:
    """The same, of a model that writes latent frames from coarse to fine."""
    return _write_debug(tmp_path_factory.mktemp("coarse"), "coarse")


@pytest.fixture(scope="session")
def guided_checkpoint(tmp_path_factory) -> Path:
    """The same, of a model that applies the guidance scale 3 itself, in one row."""
    return _write_debug(tmp_path_factory.mktemp("guided"), "coarse", guidance=3.0)


@pytest.fixture(scope="session")
def played_checkpoint(tmp_path_factory) -> Path:
    """The same, of a model of two pictures a latent frame that is played by three keys and an axis."""
    controller = Controller(keys=("a", "d", "jump"), axes=("turn",), limits=(8.0,), pictures=2)
    return _write_debug(tmp_path_factory.mktemp("played"), "coarse", controller=controller)


def _write_debug(
    folder: Path, order: Order, guidance: float | None = None, controller: Controller | None = None
) -> Path:
    torch.manual_seed(0)
    quantizer, temporal = QuantizerConfig(levels=(5, 5)), 4 if controller is None else controller.pictures
    tokenizer = TokenizerConfig(
        temporal=temporal, encoder_width=16, decoder_widths=(16, 8), decoder_depth=(2, 1), quantizer=quantizer
    )
    lm = LMConfig(vocab_size=25, rows=4, columns=6, order=order, width=32, depth=2, heads=2, kv_heads=1, head_dim=16,
                  hidden=32, neighbour_dim=8, guidance=guidance, controller=controller or Controller())  # fmt: skip
    text = TextEncoder(train_text(["a red ball moves left", "a blue ring spins over grass"]))
    config = ModelConfig(format=1, fps=8.0, height=32, width=48, tokenizer=tokenizer, lm=lm)
    model = VideoTransformer(lm)
    for parameter in model.parameters():  # large weights, so that prompt and past do change the tokens
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.text = text
    save_pretrained(folder, config, VideoTokenizer(tokenizer), model)
    return folder


@functools.cache
def _parts(folder: Path) -> Pretrained:
    """Load a tiny model once for all tests, none of which changes it for good."""
    return load_pretrained(folder, device="cpu")


@pytest.fixture
def debug_generator(debug_checkpoint) -> VideoGenerator:
    """A generator over the tiny model."""
    return VideoGenerator(_parts(debug_checkpoint))


@pytest.fixture
def guided_generator(guided_checkpoint) -> VideoGenerator:
    """A generator over the tiny model that applies guidance itself."""
    return VideoGenerator(_parts(guided_checkpoint))


@pytest.fixture(params=["raster", "coarse"])
def ordered_generator(request, debug_checkpoint, coarse_checkpoint) -> VideoGenerator:
    """One over each of the tiny models, which write latent frames in different orders."""
    folder = debug_checkpoint if request.param == "raster" else coarse_checkpoint
    return VideoGenerator(_parts(folder))


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """The test runs in a folder of its own, in which a refused command must leave nothing."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def debug(debug_checkpoint) -> list[object]:
    """The options of a command that choose the tiny model."""
    return ["--model", debug_checkpoint, "--device", "cpu"]


@pytest.fixture
def run(capsys):
    """Run a command: (exit code, stdout, stderr)."""

    def call(*words):
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="session")
def footage() -> Path:
    """A folder of real clips (REELM_FOOTAGE, or shared/footage beside the repository); skips where there is none."""
    folder = Path(os.environ.get("REELM_FOOTAGE") or ROOT.parent / "shared" / "footage")
    if not any(folder.glob("*.mp4")):
        pytest.skip("no footage here: set REELM_FOOTAGE")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first: at the end, one worker would run them while the other has nothing left to do.

    Those of ranks share one preparation, which both workers would make if they were divided at the end.
    """
    items.sort(key=lambda item: (item.name != "test_in_the_interpreter", item.path.name != "test_ranks.py"))


@pytest.fixture
def played_generator(played_checkpoint) -> VideoGenerator:
    """A generator over the tiny model that is played."""
    return VideoGenerator(_parts(played_checkpoint))
