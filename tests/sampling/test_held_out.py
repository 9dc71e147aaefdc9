"""Continuations beside the truth: what is compared with what, and what cannot be."""

import numpy as np
import pytest

from reelm.core.errors import ReelmError
from reelm.data.clip_shards import ClipShards
from reelm.data.prepare import prepare
from reelm.data.recode import PrepareConfig
from reelm.sampling.held_out import continue_held_out
from reelm.tokenizer.clip_read import read_clip
from reelm.tokenizer.clip_write import write_clip


@pytest.fixture
def shards(tmp_path):
    """Held out: 20 frames that stand still, 20 that flicker, and 4, which are too few."""
    (tmp_path / "clips").mkdir()
    for number, frames in enumerate((40, 40, 8)):
        clip = np.full((frames, 64, 64, 3), 90, np.uint8)
        clip[number % 2 :: 2] += np.uint8(60 * (number % 2))
        write_clip(tmp_path / f"clips/{number}.mkv", clip, 10)
    config = PrepareConfig(height=64, width=64, held_out_seconds=2)
    prepare(tmp_path / "clips", tmp_path / "shards", config, workers=0)
    return ClipShards(tmp_path / "shards", "held-out")


def test_what_moves_and_what_does_not_are_told_apart(debug_generator, shards, tmp_path):
    report = continue_held_out(debug_generator, shards, tmp_path / "out", predicted=4)
    assert (report["n"], report["left_out"], report["given_frames"], report["predicted_frames"]) == (2, 1, 9, 4)
    still, flickering = report["samples"]
    assert still["still"] > 45  # but for the loss of the encoding
    # Two of the four frames are 60 off, the other two as good as equal.
    assert flickering["still"] == pytest.approx(10 * np.log10(255**2 / (60**2 / 2)), abs=1)
    assert report["psnr"] == pytest.approx((still["psnr"] + flickering["psnr"]) / 2)
    frames = read_clip(tmp_path / "out" / "continuations.mp4").frames_THWC
    assert frames.shape == (26, 64, 128, 3)
    assert (tmp_path / "out" / "continuations.png").is_file()


def test_a_continuation_that_is_the_truth_has_no_error(debug_generator, shards, tmp_path, monkeypatch):
    class Known:
        frames, stats = None, {}

    def truth(clip, **options):
        number = next(n for n in (0, 1) if np.array_equal(shards.read(n, 0, 9), clip.frames))
        Known.frames = shards.read(number, 0, 13)
        return Known

    monkeypatch.setattr(debug_generator, "continue_clip", truth)
    assert continue_held_out(debug_generator, shards, tmp_path, predicted=4)["psnr"] > 100


def test_what_cannot_be_compared_is_refused(debug_generator, shards, tmp_path):
    with pytest.raises(ReelmError, match=r"^data: must have a sample of at least 29 frames, got 20"):
        continue_held_out(debug_generator, shards, tmp_path, predicted=20)
    with pytest.raises(ReelmError, match=r"^predicted: must be at least 1, got 0"):
        continue_held_out(debug_generator, shards, tmp_path, predicted=0)
    shards.height = 32
    with pytest.raises(ReelmError, match=r"^data: must have a height of at least 64, which the model has, got 32"):
        continue_held_out(debug_generator, shards, tmp_path)
