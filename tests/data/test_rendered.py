import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.data import rendered as encode
from reelm.data.rendered import CAPTIONS_PER_CLIP, encode_world
from reelm.data.token_shards import read_shards
from reelm.generation.pretrained import load_pretrained


@pytest.fixture
def tokenizer(debug_checkpoint):
    return load_pretrained(debug_checkpoint, device="cpu").tokenizer


def test_shards_hold_tokens_and_captions_and_an_interrupted_run_goes_on(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "CLIPS_PER_SHARD", 3)
    encode_world(tokenizer, tmp_path, clips=7, num_frames=5, seed=1)
    (shards,) = read_shards(tmp_path)
    assert shards.tokens_Bthw.shape == (7, 2, 8, 8)
    assert all(len(captions) == CAPTIONS_PER_CLIP for captions in shards.captions)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    sorted(tmp_path.iterdir())[1].unlink()
    encode_world(tokenizer, tmp_path, clips=7, num_frames=5, seed=1)
    (again,) = read_shards(tmp_path)
    assert torch.equal(again.tokens_Bthw, shards.tokens_Bthw)
    assert again.captions == shards.captions
    assert sum(path.stat().st_mtime_ns == times[path.name] for path in tmp_path.iterdir()) == 2


def test_shards_of_another_run_are_made_anew(tokenizer, tmp_path):
    encode_world(tokenizer, tmp_path, clips=2, num_frames=5, seed=1)
    before = read_shards(tmp_path)[0]
    encode_world(tokenizer, tmp_path, clips=4, num_frames=5, seed=1)
    after = read_shards(tmp_path)[0]
    assert torch.equal(after.tokens_Bthw[:2], before.tokens_Bthw)
    assert len(after.captions) == 4
    with torch.no_grad():
        tokenizer.encoder.head[1].bias += 1
    encode_world(tokenizer, tmp_path, clips=4, num_frames=5, seed=1)
    assert not torch.equal(read_shards(tmp_path)[0].tokens_Bthw, after.tokens_Bthw)


@pytest.mark.parametrize("options", [{"clips": 0}, {"seed": -1}, {"num_frames": 4}, {"height": 30}])
def test_wrong_options_are_refused(tokenizer, tmp_path, options):
    with pytest.raises(ReelmError, match=next(iter(options))):
        encode_world(tokenizer, tmp_path, **({"clips": 2, "num_frames": 5, "seed": 1} | options))
