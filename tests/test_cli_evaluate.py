"""The commands that judge on clips of one's own: evaluate tokenizer and evaluate model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import reelm
from reelm.core.checkpoint import save_json
from reelm.core.config import to_dict
from reelm.data.prepare import prepare
from reelm.data.recode import PrepareConfig
from reelm.generation.pretrained import read_config
from reelm.media.writer import write_clip

pytest.importorskip("skimage")
pytestmark = pytest.mark.usefixtures("empty_folder")

STAMPS = {
    *("n", "frames", "size", "source", "split", "model", "peak_memory_bytes", "reelm", "torch", "device", "threads"),
    "skipped",
}
NO_SPLIT = "clips was not prepared and has no split: whole clips are measured\n"


class Network(torch.nn.Module):
    """The signatures of vgg16.pt and of i3d_torchscript.pt; features are the mean of each channel."""

    def forward(
        self, inputs: torch.Tensor, resize_images: bool = False, return_lpips: bool = False, rescale: bool = False,
        resize: bool = False, return_features: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        return inputs.flatten(2).mean(2) / 255


@pytest.fixture
def network():
    torch.jit.script(Network()).save("network.pt")
    return "network.pt"


@pytest.fixture
def folder():
    """Two clips of another size and rate than the model's, and a file that is none."""
    Path("clips").mkdir()
    for number in range(2):
        clip = np.full((40, 24, 40, 3), 60 + 80 * number, np.uint8)
        for at in range(40):
            clip[at, 4:12, at % 30 : at % 30 + 8] = 220
        write_clip(f"clips/{number}.mkv", clip, 16)
    Path("clips/none.mp4").write_text("no clip")
    return "clips"


@pytest.fixture
def tokenizer(debug_checkpoint):
    """The folder of a tokenizer's training."""
    Path("tokenizer").mkdir()
    save_json(Path("tokenizer/tokenizer.json"), to_dict(read_config(debug_checkpoint).tokenizer))
    shutil.copy(debug_checkpoint / "tokenizer.safetensors", "tokenizer")
    return "tokenizer"


def test_evaluate_tokenizer_prints_a_stamped_table_and_then_json(run, folder, tokenizer, network):
    words = ["evaluate", "tokenizer", folder, "--tokenizer", tokenizer, "--device", "cpu", "--max-frames", 10]
    code, out, err = run(*words, "--contact-sheet", "sheet.png")
    report = json.loads(out.splitlines()[-1])
    assert (code, err) == (0, NO_SPLIT)
    assert len(out.splitlines()) == len(report)  # a line for each but the clips, and the document
    assert set(report) >= STAMPS | {"psnr", "ssim", "warping_error", "border_gap", "streaming_error"}
    assert (report["n"], report["frames"], report["size"]) == (2, 20, "40x24")
    assert (report["source"], report["split"], report["model"]) == ("clips", "all", "tokenizer")
    assert (report["reelm"], report["torch"]) == (reelm.__version__, torch.__version__)
    assert report["device"].startswith("cpu: ") and report["peak_memory_bytes"] > 2**20
    assert [name for name, _ in report["skipped"]] == ["none.mp4"]
    assert Path("sheet.png").is_file()
    code, out, _ = run(*words, "--lpips-weights", network, "--fvd-weights", network, "--json")
    added = json.loads(out)
    assert set(added) - set(report) == {"lpips", "fvd", "fvd_n", "fvd_frames", "fvd_left_out", "fvd_not_finite"}
    assert added["psnr"] == report["psnr"]
    assert added["lpips"] > 0 and added["fvd"] > 0
    assert (added["fvd_n"], added["fvd_frames"]) == (2, 10)
    refused = run(*words[:-1], 9, "--fvd-weights", network)
    assert refused == (2, "", "reelm: error: max_frames: must be at least 10 for FVD, got 9\n")
    assert "lpips_weights: must be a file that exists, got 'none.pt'" in run(*words, "--lpips-weights", "none.pt")[2]


def test_evaluate_model_fits_the_clips_to_the_model(run, folder, debug_checkpoint, network):
    words = ["evaluate", "model", folder, "--model", debug_checkpoint, "--device", "cpu", "--max-frames", 17]
    code, out, err = run(*words, "--fvd-weights", network, "--out", "runs/evaluation")
    report = json.loads(out.splitlines()[-1])
    assert (code, err) == (0, NO_SPLIT)
    assert len(out.splitlines()) == len(report)
    assert report["fvd_frames"] == 17
    assert set(report) >= STAMPS | {"nats_per_token", "bits_per_dimension", "psnr", "psnr_of_the_tokens_alone"}
    assert (report["n"], report["frames"], report["size"], report["fps"]) == (2, 34, "48x32", 8)
    assert (report["model"], report["source"], report["split"]) == (debug_checkpoint.name, "clips", "all")
    assert (report["continued"], report["given_frames"], report["predicted_frames"]) == (2, 9, 8)
    assert json.loads(Path("runs/evaluation/evaluation.json").read_text()) == report
    assert sorted(path.name for path in Path("runs/evaluation").iterdir()) == [
        "continuations.mp4", "continuations.png", "evaluation.json", "reelm.json",
    ]  # fmt: skip
    words = [*words[:-1], 10, "--clips", 1, "--num-frames", 1, "--json"]
    plain = json.loads(run(*words)[1])
    assert (plain["n"], plain["frames"], plain["predicted_frames"], "fvd" in plain) == (1, 9, 1, False)
    assert json.loads(run(*words, "--seed", 1)[1])["psnr"] != plain["psnr"]
    assert json.loads(run(*words, "--fit", "pad")[1])["nats_per_token"] != plain["nats_per_token"]


def test_evaluate_model_of_prepared_clips_takes_the_split(run, folder, debug_checkpoint):
    Path("clips/none.mp4").unlink()
    prepare(Path(folder), Path("shards"), PrepareConfig(height=32, width=48, held_out_seconds=0.5), workers=0)
    words = ["evaluate", "model", "shards", "--model", debug_checkpoint, "--device", "cpu", "--json"]
    held_out = json.loads(run(*words)[1])
    assert (held_out["split"], held_out["frames"], held_out["continued"]) == ("held-out", 2, 0)  # of 4 frames each
    train = json.loads(run(*words, "--split", "train", "--clips", 1)[1])
    assert (train["split"], train["frames"]) == ("train", 13)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "folder: must be an existing folder, got 'none'"),
        (["clips", "--split", "nonsense"], "split: must be one of ('train', 'held-out'), got 'nonsense'"),
        (["clips", "--clips", "0"], "clips: must be at least 1, got 0"),
        (["clips", "--num-frames", "0"], "num_frames: must be at least 1, got 0"),
        (["clips", "--max-frames", "16"], "max_frames: must be at least 17, got 16"),
        (["clips", "--seed", "-1"], "seed: must be a whole number from 0 to 2**63 - 1, got -1"),
        (["clips", "--out", "clips/0.mkv"], "out: must be a folder, got 'clips/0.mkv'"),
        (
            ["clips", "--fvd-weights", "clips/0.mkv"],
            "fvd_weights: must be a TorchScript file or an exported program (.pt2), got 'clips/0.mkv'",
        ),
    ],
)
def test_what_evaluate_model_refuses_in_one_line(words, message, run, folder, debug_checkpoint):
    refused = run("evaluate", "model", *words, "--model", debug_checkpoint, "--device", "cpu")
    assert refused == (2, "", f"reelm: error: {message}\n")


def test_where_no_clip_can_be_read_the_reasons_are_told(run, folder, tokenizer, debug_checkpoint):
    for number in range(2):
        Path(f"clips/{number}.mkv").write_text("no clip")
    for kind, *words in (("model", "--model", debug_checkpoint), ("tokenizer", "--tokenizer", tokenizer)):
        code, out, err = run("evaluate", kind, folder, *words, "--device", "cpu")
        assert (code, out) == (2, "")
        assert err.startswith(
            f"{NO_SPLIT}reelm: error: clips: must be at least one that can be read, got none: 0.mkv ("
        )
        assert "1.mkv (" in err and "none.mp4 (" in err


def test_fvd_of_one_clip_loses_no_other_figure(run, folder, tokenizer, debug_checkpoint, network):
    for kind, *words in (("model", "--model", debug_checkpoint), ("tokenizer", "--tokenizer", tokenizer)):
        words = [folder, *words, "--device", "cpu", "--max-frames", 17, "--fvd-weights", network]
        Path("clips/1.mkv").unlink(missing_ok=True)
        report = json.loads(run("evaluate", kind, *words, "--json")[1])
        assert (report["fvd"], report["fvd_n"]) == (None, 1)
        assert report["psnr"] > 0
