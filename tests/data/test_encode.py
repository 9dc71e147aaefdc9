"""Prepared clips to token shards: every window once, whoever does it, and no window that is not asked for."""

import pytest
import torch

from reelm.core.checkpoint import load_tensors
from reelm.core.errors import ReelmError
from reelm.core.shards import read_shards, shard_origin
from reelm.data import encode
from reelm.data.clip_shards import ClipShards
from reelm.data.encode import encode_shards
from reelm.tokenizer.model import TokenizerConfig, VideoTokenizer
from reelm.tokenizer.quantizer import QuantizerConfig


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    config = TokenizerConfig(encoder_width=8, decoder_widths=(8, 8), decoder_depth=(1, 1),
                             quantizer=QuantizerConfig(levels=(5, 5)))  # fmt: skip
    return VideoTokenizer(config).eval()


def test_every_window_is_there_as_it_is_encoded_alone(long_shards, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "BATCH", 3)
    shards = ClipShards(long_shards)  # of 60, 45 and 10 frames
    assert encode_shards(tokenizer, shards, tmp_path, num_frames=9, stride=5) == 11 + 8 + 1
    (sets,) = read_shards(tmp_path)
    assert sets.fps == 10
    assert sets.captions == [["clip 0"]] * 11 + [["clip 1"]] * 8 + [["clip 2"]]
    windows = [(0, 5 * n) for n in range(11)] + [(1, 5 * n) for n in range(8)] + [(2, 0)]
    for tokens_thw, (sample, start) in zip(sets.tokens_Nthw, windows, strict=True):
        alone = tokenizer.encode(torch.from_numpy(shards.read(sample, start, 9))[None])
        assert torch.equal(tokens_thw.long(), alone[0])


def test_ranks_share_the_work_and_what_is_there_is_kept(long_shards, tokenizer, tmp_path, monkeypatch):
    shards = ClipShards(long_shards)
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    total = encode_shards(tokenizer, shards, whole, num_frames=9)
    assert total == sum(encode_shards(tokenizer, shards, shared, num_frames=9, rank=r, world_size=2) for r in (0, 1))
    names = sorted(path.name for path in whole.iterdir())
    assert len(names) == 2 and names == sorted(path.name for path in shared.iterdir())
    for name in names:
        assert shard_origin(whole / name) == shard_origin(shared / name)
        one, other = (load_tensors(folder / name) for folder in (whole, shared))
        assert all(torch.equal(one[key], other[key]) for key in ("tokens", "captions"))
    monkeypatch.setattr(encode, "_encode", lambda *arguments: pytest.fail("encoded again"))
    assert encode_shards(tokenizer, shards, whole, num_frames=9) == total
    with pytest.raises(pytest.fail.Exception):
        encode_shards(tokenizer, shards, whole, num_frames=9, stride=8)


@pytest.mark.parametrize(("options", "message"), [
    ({"stride": 0}, "stride: must be at least 1, got 0"),
    ({"num_frames": 61}, "num_frames: must be at most 60, the longest sample's frames, got 61"),
    ({"num_frames": 8}, "num_frames: "),
    ({"rank": 2, "world_size": 2}, "rank: must be from 0 to 1, got 2"),
    ({"world_size": 0}, "world_size: must be at least 1, got 0"),
])  # fmt: skip
def test_wrong_options_are_refused(long_shards, tokenizer, tmp_path, options, message):
    with pytest.raises(ReelmError, match=f"^{message}"):
        encode_shards(tokenizer, ClipShards(long_shards), tmp_path, **options)
