"""Crops to train on: what they show, that they follow from (seed, step), and that no held-out frame is among them."""

import numpy as np
import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.data import crops as crops_module
from reelm.data.clip_shards import ClipShards
from reelm.data.crops import CropLoader, held_out_clips
from reelm.data.loader import ClipLoader
from reelm.data.prepare import prepare
from reelm.data.recode import PrepareConfig
from reelm.media.writer import write_clip


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two clips of smooth noise, 48x64."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for number, count in enumerate((26, 40)):
        small = rng.integers(0, 256, (count, 6, 8, 3), np.uint8)
        write_clip(folder / f"{number}.mkv", small.repeat(8, 1).repeat(8, 2), 8)
    prepare(folder, folder / "shards", PrepareConfig(height=48, width=64), workers=0)
    return folder / "shards"


def loader(shards, **changes):
    options = {"batch_size": 3, "num_frames": 5, "height": 16, "width": 24, "seed": 0} | changes
    return CropLoader(ClipShards(shards), options.pop("batch_size"), options.pop("num_frames"), **options)


def test_a_batch_is_cut_out_of_the_windows_at_places_of_its_own(shards):
    crops, whole, places = loader(shards), ClipLoader(ClipShards(shards), 3, 5, 0, flip=True), set()
    for step in range(12):
        batch, windows = crops.batch(step), whole.batch(step).frames_BTHW3
        assert batch.shape == (3, 5, 16, 24, 3) and batch.dtype == torch.uint8
        for crop, window in zip(batch, windows, strict=True):
            found = [
                (top, left)
                for top in range(48 - 16 + 1)
                for left in range(64 - 24 + 1)
                if torch.equal(window[:, top : top + 16, left : left + 24], crop)
            ]
            assert found
            places.add(found[0])
    assert len({top for top, _ in places}) > 12 and len({left for _, left in places}) > 12
    crops.close()


def test_a_batch_follows_from_seed_and_step(shards):
    first, again, other = loader(shards), loader(shards), loader(shards, seed=1)
    wanted = [first.batch(step) for step in range(4)]
    assert torch.equal(again.batch(3), wanted[3])
    assert torch.equal(again.batch(1), wanted[1])
    assert not torch.equal(other.batch(1), wanted[1])
    for crops in (first, again, other):
        crops.close()


def test_a_crop_may_be_the_whole_picture(shards):
    crops = loader(shards, height=48, width=64)
    assert torch.equal(crops.batch(2), ClipLoader(ClipShards(shards), 3, 5, 0, flip=True).batch(2).frames_BTHW3)
    crops.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"height": 49}, "height: must be from 1 to 48, which the clips have, got 49"),
        ({"width": 0}, "width: must be from 1 to 64"),
        ({"num_frames": 99}, "num_frames: must be at most 32"),
    ],
)
def test_crops_larger_than_the_clips_are_refused(shards, change, said):
    with pytest.raises(ReelmError, match=said):
        loader(shards, **change)


def test_held_out_clips_are_the_ends(shards, monkeypatch):
    held_out = ClipShards(shards, "held-out")
    assert [sample.frames for sample in held_out.samples] == [8, 8]
    ends = held_out_clips(held_out, temporal=4)
    assert [(name, len(frames)) for name, frames in ends] == [("0.mkv", 5), ("1.mkv", 5)]
    assert torch.equal(ends[1][1], torch.from_numpy(held_out.read(1, 3, 5)))
    assert [len(frames) for _, frames in held_out_clips(held_out, temporal=8)] == [1, 1]
    monkeypatch.setattr(crops_module, "MAX_HELD_OUT", 1)
    assert len(held_out_clips(held_out, temporal=4)) == 1
