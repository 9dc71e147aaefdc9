import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from reelm.core import checkpoint
from reelm.core.checkpoint import SCALES, find_checkpoint, load_tensors, load_weights, save_tensors, uninitialised
from reelm.core.errors import CheckpointError
from reelm.generation.pretrained import load_pretrained, read_config
from reelm.lm.transformer import VideoTransformer
from reelm.media.writer import write_clip
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.tokenizer.tokenizer_config import TokenizerConfig
from reelm.tokenizer.video_tokenizer import VideoTokenizer


@pytest.fixture
def folder(debug_checkpoint, tmp_path):
    return shutil.copytree(debug_checkpoint, tmp_path / "model")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_whole_folder_loads(folder):
    assert load_pretrained(folder, device="cpu").name == "model"


@pytest.mark.parametrize("name", ["config.json", "lm.safetensors", "tokenizer.safetensors", "text.model"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_pretrained(folder, device="cpu")


@pytest.mark.parametrize("name", ["config.json", "lm.safetensors", "tokenizer.safetensors", "text.model"])
def test_a_truncated_file_is_named(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=name):
        load_pretrained(folder, device="cpu")


def test_a_pickle_is_refused_and_not_run(folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (folder / "lm.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="pickled"):
        load_pretrained(folder, device="cpu")
    assert not (tmp_path / "ran").exists()


def test_wrong_shapes_names_and_values_are_named(folder):
    good = load_file(folder / "lm.safetensors")
    for change, message in (
        ({"head.weight": good["head.weight"][:-1].clone()}, "head.weight must have shape"),
        ({"tail.weight": torch.zeros(1)}, "extra .'tail.weight'"),
        ({"norm.weight": good["norm.weight"] * float("nan")}, "norm.weight must be finite"),
        ({"norm.weight": good["norm.weight"].int()}, "norm.weight must be torch.float32"),
    ):
        save_file(good | change, folder / "lm.safetensors")
        with pytest.raises(CheckpointError, match=message):
            load_pretrained(folder, device="cpu")


def test_a_matrix_in_int8_is_its_rows_times_their_scales(tmp_path):
    whole, scales = torch.randint(-127, 128, (3, 5), dtype=torch.int8), torch.rand(3) + 0.1
    linear, path, bias = nn.Linear(5, 3), tmp_path / "linear.safetensors", torch.rand(3)
    stored = {"weight": whole, f"weight{SCALES}": scales, "bias": bias}
    save_file(stored, path)
    load_weights(linear, path)
    assert torch.equal(linear.weight, whole * scales[:, None]) and torch.equal(linear.bias, bias)
    for change, message in (
        ({f"weight{SCALES}": scales[:2].clone()}, r"weight.scales must have shape \(3,\), got \(2,\)"),
        ({f"weight{SCALES}": scales / 0}, "weight.scales must be finite"),
        ({"weight": whole.float()}, "weight must be torch.int8"),
        ({f"bias{SCALES}": scales.clone()}, "extra .'bias.scales'"),
    ):
        save_file(stored | change, path)
        with pytest.raises(CheckpointError, match=message):
            load_weights(linear, path)
    del stored[f"weight{SCALES}"]
    save_file(stored, path)
    with pytest.raises(CheckpointError, match=r"weight must be torch\.float32, got torch\.int8"):
        load_weights(linear, path)


def test_unknown_options_and_parts_that_do_not_fit_are_refused(folder):
    edit_config(folder, colour="red")
    with pytest.raises(CheckpointError, match="unknown option 'colour'"):
        load_pretrained(folder, device="cpu")
    config = json.loads((folder / "config.json").read_text())
    del config["colour"]
    (folder / "config.json").write_text(json.dumps(config))
    edit_config(folder, lm=config["lm"] | {"vocab_size": 7})
    with pytest.raises(CheckpointError, match=r"lm\.vocab_size"):
        load_pretrained(folder, device="cpu")


def test_a_bundled_name_wins_over_a_folder_so_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "BUNDLED", tmp_path)
    (tmp_path / "here" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert find_checkpoint("model") == folder
    assert find_checkpoint("./model") == find_checkpoint(Path("model")) == Path("model")


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(CheckpointError, match="must be a folder, a hub id or one of"):
        find_checkpoint("wrold")


@pytest.mark.parametrize("kind", ["fsq", "vq", "lfq"])
def test_what_is_made_uninitialised_and_loaded_is_what_was_saved(kind, folder, tmp_path):
    """No random number is drawn, and every parameter and buffer has the bits of the file or of a fresh model."""
    for make in (
        lambda: VideoTransformer(read_config(folder).lm),
        lambda: VideoTokenizer(TokenizerConfig(quantizer=QuantizerConfig(kind=kind))),
    ):
        fresh, before = make(), torch.get_rng_state()
        save_file(fresh.state_dict(), tmp_path / "fresh.safetensors")
        with uninitialised():
            model = make()
        load_weights(model, tmp_path / "fresh.safetensors")
        assert torch.equal(torch.get_rng_state(), before)
        for one, other in (
            (fresh.named_parameters, model.named_parameters),
            (fresh.named_buffers, model.named_buffers),
        ):
            for (name, wanted), (_, tensor) in zip(one(), other(), strict=True):
                assert torch.equal(tensor, wanted), name


def test_uninitialised_leaves_out_the_drawing_alone():
    with uninitialised():
        linear, norm, drawn = nn.Linear(3, 3), nn.LayerNorm(3), torch.zeros(9).normal_()
    assert drawn.eq(0).all() and norm.weight.eq(1).all() and linear.weight.requires_grad
    assert torch.zeros(9).normal_().ne(0).any()


def test_a_sum_that_overflows_is_no_infinity_and_infinities_that_cancel_are_not_finite(tmp_path):
    linear, path = nn.Linear(4, 1, bias=False), tmp_path / "linear.safetensors"
    for values, message in (([6e4] * 4, None), ([torch.inf, -torch.inf, 0, 0], "weight must be finite")):
        save_file({"weight": torch.tensor([values], dtype=torch.float16)}, path)
        if message is None:
            load_weights(linear, path)
            assert linear.weight.tolist() == [[60000.0] * 4]
        else:
            with pytest.raises(CheckpointError, match=message):
                load_weights(linear, path)


def test_a_file_that_is_replaced_while_it_is_read_is_refused(tmp_path):
    linear, path = nn.Linear(2, 2), tmp_path / "linear.safetensors"

    def replace(name):
        (tmp_path / "other").write_bytes(path.read_bytes())
        (tmp_path / "other").replace(path)
        return False

    save_file(linear.state_dict(), path)
    with pytest.raises(CheckpointError, match="must stay as it is while it is read"):
        load_weights(linear, path, replace=replace)


def test_a_layer_that_is_put_in_the_place_of_another_is_kept_and_the_others_have_memory_of_their_own(tmp_path):
    model, path = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), tmp_path / "model.safetensors"
    wanted = {name: torch.randn(tensor.shape).half() for name, tensor in model.state_dict().items()}
    save_file(wanted, path)

    def replace(name):
        if name == "0.bias":
            model[0] = nn.Identity()
        return name == "0.bias"

    load_weights(model, path, dtype=torch.bfloat16, replace=replace)
    assert isinstance(model[0], nn.Identity)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, wanted[name].bfloat16())


def test_equal_tensors_and_metadata_give_equal_bytes(tmp_path):
    """The library alone writes the metadata in a random order, another one at each call."""
    tensors = {"b": torch.arange(3.0), "a": torch.arange(5, dtype=torch.int8), "empty": torch.zeros(0, 2)}
    metadata = {"z": "1", "é": '"\\\n\x01', "y": "", "x": "漢🙂", "w": "4", "v": "5"}
    files = [tmp_path / str(index) for index in range(8)]
    for index, path in enumerate(files):
        turned = reversed if index % 2 else list
        save_tensors(path, dict(turned(tensors.items())), dict(turned(metadata.items())))
    assert len({path.read_bytes() for path in files}) == 1
    loaded = load_tensors(files[0])
    assert loaded.keys() == tensors.keys() and all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    with safe_open(files[0], framework="pt") as file:
        assert file.metadata() == metadata
    save_tensors(files[0], tensors)
    with safe_open(files[0], framework="pt") as file:
        assert not file.metadata() and len(file.keys()) == 3


SAVES = """
import hashlib, sys
from pathlib import Path
import numpy as np
import torch
from reelm.data.clip_shards import ClipShards
from reelm.data.encode import Windows, encode_shards
from reelm.data.prepare import prepare
from reelm.generation.generator import VideoGenerator
from reelm.media.writer import write_clip
from reelm.training.train_config import TrainConfig
from reelm.training.tokenizer_training import TokenizerTraining, train_tokenizer
model, clips, out = map(Path, sys.argv[1:])
generator = VideoGenerator.from_pretrained(model, device="cpu")
generator.generate("a red ball", num_frames=5, seed=3).state.save(out / "clip.safetensors")
for index in range(2):
    frames = np.random.default_rng(index).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8)
    write_clip(out / f"{index}.mp4", frames, 8)
prepare(clips, out / "shards")
encode_shards(generator.parts.tokenizer, ClipShards(out / "shards"), out / "tokens", Windows(num_frames=5))
recipe = TokenizerTraining(model=generator.parts.tokenizer.config, train=TrainConfig(steps=2), batch_size=1,
                           num_frames=5, height=32, width=48)
train_tokenizer(recipe, out / "run", device="cpu")
for path in sorted(out.rglob("*")):
    if path.is_file():
        print(path.relative_to(out), hashlib.sha256(path.read_bytes()).hexdigest())
"""


@pytest.mark.slow
def test_two_processes_write_equal_sessions_shards_and_runs(debug_checkpoint, tmp_path):
    listed, clips = [], tmp_path / "clips"
    clips.mkdir()
    for index in range(4):  # once, as the index of a shard holds a hash of the times of the clips' files
        frames = np.random.default_rng(index).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8)
        write_clip(clips / f"{index}.mp4", frames, 8)
        (clips / f"{index}.txt").write_text("a red ball")
    for seed in ("0", "1"):
        out = tmp_path / seed
        out.mkdir()
        words = [sys.executable, "-c", SAVES, debug_checkpoint, clips, out]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        listed.append(subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout)
    assert listed[0] == listed[1]
    for suffix in (".safetensors", ".tar", ".json", ".mp4"):
        assert f"{suffix} " in listed[0]
