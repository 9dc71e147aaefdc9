import re

import pytest
import torch

from reelm.core.checkpoint import load_tensors, save_tensors
from reelm.core.controls import Controller
from reelm.core.errors import CheckpointError, ReelmError
from reelm.data.token_shards import read_shards, shard_origin, write_shard


def test_shards_of_one_grid_are_joined_in_order(tmp_path):
    first, second, long = torch.arange(24).view(2, 3, 2, 2), torch.arange(12).view(1, 3, 2, 2), torch.zeros(1, 5, 2, 2)
    write_shard(tmp_path / "a.safetensors", first, [["één"], ["b", "c"]], fps=8)
    write_shard(tmp_path / "b.safetensors", second, [["d"]], fps=8)
    write_shard(tmp_path / "c.safetensors", long, [["e"]], fps=8)
    short, longer = read_shards(tmp_path)
    assert torch.equal(short.tokens_Bthw, torch.cat([first, second]).int())
    assert short.captions == [["één"], ["b", "c"], ["d"]]
    assert longer.tokens_Bthw.shape == (1, 5, 2, 2)


def test_wrong_shards_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="folder of token shards"):
        read_shards(tmp_path)
    with pytest.raises(ReelmError, match="captions"):
        write_shard(tmp_path / "a.safetensors", torch.zeros(2, 1, 1, 1), [["a"]], fps=8)
    with pytest.raises(ReelmError, match="captions"):
        write_shard(tmp_path / "a.safetensors", torch.zeros(1, 1, 1, 1), [[]], fps=8)


def test_a_shard_knows_what_it_was_made_from(tmp_path):
    path = tmp_path / "a.safetensors"
    assert shard_origin(path) is None
    write_shard(path, torch.zeros(1, 1, 1, 1), [["a"]], fps=8, origin="tokenizer x")
    assert shard_origin(path) == "tokenizer x"
    path.write_bytes(path.read_bytes()[:20])
    assert shard_origin(path) is None


CONTROLLER = Controller(keys=("a", "d"), axes=("turn",), limits=(2.5,), pictures=2)


def controls(count, t=3, seed=0):
    """Random tokens of `CONTROLLER` for `count` clips."""
    torch.manual_seed(seed)
    return {each.name: torch.randint(each.vocab_size, (count, t, *each.shape)) for each in CONTROLLER.segments}


def write(folder, name, count, t=3, **options):
    write_shard(folder / f"{name}.safetensors", torch.zeros(count, t, 2, 2), [["a"]] * count, fps=8, **options)


def test_control_tokens_are_joined_like_those_of_the_video(tmp_path):
    first, second, long = controls(2), controls(1, seed=1), controls(1, t=5)
    for name, given in (("a", first), ("b", second), ("c", long)):
        count, t, _ = given["keys"].shape
        write(tmp_path, name, count, t, controls=given, controller=CONTROLLER)
    short, longer = read_shards(tmp_path)
    assert short.controller == longer.controller == CONTROLLER
    for name in ("keys", "turn"):
        assert torch.equal(short.controls[name], torch.cat([first[name], second[name]]).int())
        assert torch.equal(longer.controls[name], long[name].int())
        assert short.controls[name].dtype == torch.int32


def test_shards_without_controls_are_as_before(tmp_path):
    write(tmp_path, "a", 2, origin="x")
    save_tensors(tmp_path / "old.safetensors", load_tensors(tmp_path / "a.safetensors"), {"origin": "x", "fps": "8.0"})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "old.safetensors").read_bytes()
    (shards,) = read_shards(tmp_path)
    assert (shards.controls, shards.controller, len(shards.captions)) == ({}, Controller(), 4)


@pytest.mark.parametrize("other", [
    {}, {"controller": Controller(keys=("a", "d"), axes=("turn",), limits=(2.0,), pictures=2), "controls": controls(1)},
])  # fmt: skip
def test_shards_of_several_controllers_are_refused(tmp_path, other):
    write(tmp_path, "a", 1, controls=controls(1), controller=CONTROLLER)
    write(tmp_path, "b", 1, **other)
    rule = "data: must be clips of one controller (encode them all anew), got "
    told = f"{CONTROLLER}, {other.get('controller', Controller())}"
    with pytest.raises(CheckpointError, match=f"^{re.escape(rule + told)}$"):
        read_shards(tmp_path)


@pytest.mark.parametrize(("options", "message"), [
    ({"controls": controls(1)}, "controls: must have the shapes {}, got {'keys': (1, 3, 2), 'turn': (1, 3, 2)}"),
    ({"controller": CONTROLLER}, "controls: must have the shapes {'keys': (1, 3, 2), 'turn': (1, 3, 2)}, got {}"),
    ({"controller": CONTROLLER, "controls": controls(1, t=4)},
     "controls: must have the shapes {'keys': (1, 3, 2), 'turn': (1, 3, 2)}, "
     "got {'keys': (1, 4, 2), 'turn': (1, 4, 2)}"),
    ({"controller": CONTROLLER, "controls": {**controls(1), "keys": torch.full((1, 3, 2), 4)}},
     "controls['keys']: must have tokens from 0 to 3, got [[[4, 4], [4, 4], [4, 4]]]"),
    ({"controller": CONTROLLER, "controls": {**controls(1), "turn": torch.full((1, 3, 2), -1)}},
     "controls['turn']: must have tokens from 0 to 14, got [[[-1, -1], [-1, -1], [-1, -1]]]"),
])  # fmt: skip
def test_control_tokens_that_are_not_those_of_the_controller_are_refused(tmp_path, options, message):
    with pytest.raises(ReelmError, match=f"^{re.escape(message)}$"):
        write(tmp_path, "a", 1, **options)


@pytest.mark.parametrize(("metadata", "cut", "message"), [
    ("{", 3, "must have a controller that can be read"),
    ("[]", 3, "must have a controller that can be read"),
    ('{"keys": ["none"]}', 3, "must have a controller that can be read"),
    ('{"keys": ["a"], "pictures": 2}', 3, "must be a token shard, got tensors"),
    (None, 3, "must be a token shard, got tensors"),
    ('{"keys": ["a", "d"], "axes": ["turn"], "limits": [1.0], "pictures": 2}', 2,
     "must have control tokens for each latent frame, got shapes"),
])  # fmt: skip
def test_damaged_controls_are_refused(tmp_path, metadata, cut, message):
    write(tmp_path, "a", 1, controls=controls(1), controller=CONTROLLER)
    path = tmp_path / "a.safetensors"
    tensors = load_tensors(path)
    tensors["control.keys"] = tensors["control.keys"][:, :cut]
    save_tensors(path, tensors, {"fps": "8.0"} | ({} if metadata is None else {"controller": metadata}))
    with pytest.raises(CheckpointError, match=f"^data: a.safetensors {message}"):
        read_shards(tmp_path)
