import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reelm.core import checkpoint
from reelm.core.checkpoint import find_checkpoint
from reelm.core.errors import CheckpointError
from reelm.generation.pretrained import load_pretrained


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
