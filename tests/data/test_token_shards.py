import pytest
import torch

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
