"""Continuations beside the truth: what is compared with what, and what cannot be."""

import numpy as np
import pytest

from reelm.core.errors import ReelmError
from reelm.core.layout import Compression
from reelm.data.clip_shards import ClipShards
from reelm.data.prepare import prepare
from reelm.data.recode import PrepareConfig
from reelm.evaluation.continuations import (
    MOST_DRAWN,
    PREDICTED,
    Whole,
    continue_beginnings,
    continue_held_out,
    given_frames,
    least_frames,
)
from reelm.generation.video import Video
from reelm.media.reader import read_clip
from reelm.media.writer import write_clip

HEIGHT, WIDTH = 32, 48  # of the debug model


@pytest.fixture
def shards(tmp_path):
    """Held out: 20 frames that stand still, 20 that flicker, and 4, which are too few."""
    (tmp_path / "clips").mkdir()
    for number, frames in enumerate((40, 40, 8)):
        clip = np.full((frames, HEIGHT, WIDTH, 3), 90, np.uint8)
        clip[number % 2 :: 2] += np.uint8(60 * (number % 2))
        write_clip(tmp_path / f"clips/{number}.mkv", clip, 10)
    config = PrepareConfig(height=HEIGHT, width=WIDTH, held_out_seconds=2)
    prepare(tmp_path / "clips", tmp_path / "shards", config, workers=0)
    return ClipShards(tmp_path / "shards", "held-out")


def test_what_moves_and_what_does_not_are_told_apart(debug_generator, shards, tmp_path):
    report = continue_held_out(debug_generator, shards, tmp_path / "out", predicted=4)
    assert (report["n"], report["left_out"], report["given_frames"], report["predicted_frames"]) == (2, 1, 9, 4)
    still, flickering = report["samples"]
    assert still["still"] > 45  # but for the loss of the encoding
    # Two of the four frames are 60 off, the other two as good as equal.
    assert flickering["still"] == pytest.approx(10 * np.log10(255**2 / (60**2 / 2)), abs=1)
    for key in ("psnr", "psnr_of_the_tokens_alone"):
        assert report[key] == pytest.approx((still[key] + flickering[key]) / 2)
    assert still["psnr"] != still["psnr_of_the_tokens_alone"]  # which has no kept detail in it
    frames = read_clip(tmp_path / "out" / "continuations.mp4").frames_THW3
    assert frames.shape == (26, HEIGHT, 2 * WIDTH, 3)
    assert (tmp_path / "out" / "continuations.png").is_file()


def test_larger_clips_are_made_to_fit(debug_generator, tmp_path):
    (tmp_path / "clips").mkdir()
    ramp = np.broadcast_to(np.arange(208, dtype=np.uint8)[None, None, :, None], (40, 96, 208, 3))
    write_clip(tmp_path / "clips/0.mkv", np.ascontiguousarray(ramp), 10)
    prepare(tmp_path / "clips", tmp_path / "shards", PrepareConfig(height=96, width=208, held_out_seconds=2), workers=0)
    continue_held_out(debug_generator, ClipShards(tmp_path / "shards", "held-out"), tmp_path, predicted=4)
    row = read_clip(tmp_path / "continuations.mp4").frames_THW3[0, HEIGHT // 2, :, 0].float()
    truth = row[:WIDTH]  # 144 of the columns, from 32
    assert truth[0] == pytest.approx(32, abs=4) and truth[-1] == pytest.approx(175, abs=4)


def test_a_continuation_that_is_the_truth_has_no_error(debug_generator, shards, tmp_path, monkeypatch):
    own = debug_generator.continue_clip

    def truth(clip, **options):
        number = next(n for n in (0, 1) if np.array_equal(shards.read(n, 0, 9), clip.frames))
        return Video(shards.read(number, 0, 13), clip.fps, state=own(clip, **options).state)

    monkeypatch.setattr(debug_generator, "continue_clip", truth)
    report = continue_held_out(debug_generator, shards, tmp_path, predicted=4)
    assert report["psnr"] > 100 > report["psnr_of_the_tokens_alone"]


def test_the_tokens_alone_lie_beside_the_truth(debug_generator):
    """Of a session's own frames, so that its tokens are known: what was given is decoded as it was."""
    made = debug_generator.generate(None, num_frames=13, seed=3)
    (continuation,) = continue_beginnings(debug_generator, [Whole("a", made)], predicted=4)
    shown = debug_generator.continue_clip(Video(made.frames[:9], made.fps), num_frames=4, seed=0)
    assert np.array_equal(continuation.shown_THW3, shown.frames)
    assert np.array_equal(continuation.plain_THW3, debug_generator.decode(shown.state).frames)
    assert continuation.plain_THW3.shape == continuation.truth_THW3.shape == (13, HEIGHT, WIDTH, 3)
    assert not np.array_equal(continuation.plain_THW3[9:], continuation.shown_THW3[9:])
    (short,) = continue_beginnings(debug_generator, [Whole("a", made)], predicted=1)
    assert len(short.plain_THW3) == len(short.shown_THW3) == 10 and short.made == 4


def test_the_least_frames_of_a_clip(debug_generator, shards, tmp_path):
    side = Compression(4, 8, 8)
    assert (least_frames(side), least_frames(Compression(8, 8, 8)), least_frames(side, 3)) == (17, 25, 12)
    assert least_frames(Compression(4, 8, 8, first=4)) == 20
    assert (given_frames(debug_generator), PREDICTED, MOST_DRAWN) == (9, 8, 16)
    report = continue_held_out(debug_generator, shards, tmp_path, most=1)
    assert (report["n"], report["predicted_frames"]) == (1, 8)


def test_what_cannot_be_compared_is_refused(debug_generator, shards, tmp_path):
    with pytest.raises(ReelmError, match=r"^data: must have a sample of at least 29 frames, got 20"):
        continue_held_out(debug_generator, shards, tmp_path, predicted=20)
    with pytest.raises(ReelmError, match=r"^predicted: must be at least 1, got 0"):
        continue_held_out(debug_generator, shards, tmp_path, predicted=0)
    shards.height = 16
    with pytest.raises(ReelmError, match=r"^data: must have a height of at least 32, which the model has, got 16"):
        continue_held_out(debug_generator, shards, tmp_path)
