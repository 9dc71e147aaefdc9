"""Fitting clips to a model: which frame is shown when, and where the picture goes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.media import fitting as clip_fit
from reelm.media.fitting import ROUNDED, fit_clip, resample_frames
from reelm.tests.examples import examples


def numbered(count, height=4, width=4):
    """Frame i is filled with i."""
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, height, width, 3).contiguous()


def numbers(frames_THW3):
    return frames_THW3[:, 0, 0, 0].tolist()


# ---- time


@given(count=st.integers(2, 60), source=st.floats(1, 60), wanted=st.floats(1, 60).filter(lambda value: value > 0))
@examples(200)
def test_constant_rate_takes_the_nearest_frame(count, source, wanted):
    frames, rate = resample_frames(numbered(count), source, wanted)
    assert rate == pytest.approx(source)
    assert abs(len(frames) - max(1, count / source * wanted)) <= 0.5 + 1e-5 + ROUNDED * wanted
    # A slower rate takes the frame nearest in time; a faster one never runs ahead by more than half an output frame.
    for index, number in enumerate(numbers(frames)):
        early = number / source - index / wanted
        tolerance = 0.5 * min(1 / source, 1 / wanted) + 1e-6
        late_ok = number == count - 1 or -early <= 1 / source - tolerance + 2e-6
        assert early <= tolerance and late_ok


def test_same_rate_changes_nothing():
    frames = numbered(7)
    assert resample_frames(frames, 24, 24.0)[0] is frames
    assert resample_frames(frames, np.arange(8) / 24, 24.0)[0] is frames


def test_known_rates():
    assert numbers(resample_frames(numbered(8), 8, 4)[0]) == [0, 2, 4, 6]
    assert numbers(resample_frames(numbered(4), 4, 8)[0]) == [0, 0, 1, 1, 2, 2, 3, 3]  # half way: the later one
    assert numbers(resample_frames(numbered(30), 30, 8)[0]) == [0, 4, 8, 11, 15, 19, 23, 26]


def test_held_picture_stays_until_the_next():
    times = [0.0, 0.1, 0.2, 2.0, 2.1, 2.2]
    frames, _ = resample_frames(numbered(5), times, 10)
    assert numbers(frames) == [0, 1] + [2] * 18 + [3, 4]


def test_a_frame_that_is_held_at_the_end_is_shown_until_then_and_resized_once(monkeypatch):
    resized = []
    monkeypatch.setattr(clip_fit, "_resize", lambda frames, *_: (resized.append(len(frames)), (frames, ""))[1])
    frames, _ = fit_clip(numbered(3), [0.0, 0.5, 1.0, 4.0], fps=4, height=4, width=4)
    assert numbers(frames) == [0] * 2 + [1] * 2 + [2] * 12 and resized == [3]


def test_one_frame_stays_one_frame():
    frames, said = fit_clip(numbered(1), 1.0, fps=24, height=4, width=4)
    assert len(frames) == 1 and said is None
    frames, said = fit_clip(numbered(1, 8, 6), 1.0, fps=24, height=4, width=4, fit="pad")
    assert len(frames) == 1 and said == "6x8 -> 4x4, black bars"


# ---- size


def test_description_and_shape():
    frames = torch.zeros(25, 72, 128, 3, dtype=torch.uint8)
    out, said = fit_clip(frames, 25, fps=8, height=64, width=64)
    assert out.shape == (8, 64, 64, 3) and said == "128x72 at 25 fps -> 64x64 at 8 fps, centre crop"
    assert fit_clip(frames, 25, fps=25, height=72, width=128)[1] is None
    assert fit_clip(frames, 25, fps=25, height=36, width=64)[1] == "128x72 at 25 fps -> 64x36 at 25 fps"
    assert fit_clip(frames, 25, fps=25, height=36, width=128, fit="stretch")[1].endswith("25 fps, stretched")


def test_crop_keeps_the_centre_and_pad_keeps_all():
    frames = torch.zeros(2, 8, 16, 3, dtype=torch.uint8)
    frames[:, :, 4:12] = 200
    crop, _ = fit_clip(frames, 8, fps=8, height=4, width=4)
    assert crop.min() == 200
    pad, _ = fit_clip(frames.clamp(min=100), 8, fps=8, height=8, width=8, fit="pad")
    assert pad[:, :2].max() == 0 and pad[:, 6:].max() == 0 and pad[:, 2:6].min() >= 100
    stretch, _ = fit_clip(frames, 8, fps=8, height=8, width=8, fit="stretch")
    assert stretch[:, :, 0].max() == 0 and stretch[:, :, 3:5].min() == 200


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    to=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    fit=st.sampled_from(clip_fit.FITS),
    value=st.integers(0, 255),
)
@examples(150)
def test_flat_colour_stays_flat(size, to, fit, value):
    frames = torch.full((2, *size, 3), value, dtype=torch.uint8)
    out, _ = fit_clip(frames, 8, fps=8, height=to[0], width=to[1], fit=fit)
    assert out.shape == (2, *to, 3) and out.dtype == torch.uint8
    assert set(out.unique().tolist()) <= ({0, value} if fit == "pad" else {value})
    assert (out == value).any()


def test_shrinking_averages_the_area():
    """A checkerboard of single pixels becomes grey: without antialiasing it would stay black or white."""
    board = (torch.arange(64)[:, None] + torch.arange(64)[None]) % 2 * 255
    frames = board.to(torch.uint8)[None, :, :, None].repeat(1, 1, 1, 3)
    out, _ = fit_clip(frames, 8, fps=8, height=8, width=8)
    assert (out.int() - 127).abs().max() <= 2


def test_chunks_make_no_difference(monkeypatch):
    frames = torch.randint(0, 256, (9, 20, 31, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole, _ = fit_clip(frames, 8, fps=8, height=7, width=13, fit="pad")
    monkeypatch.setattr(clip_fit, "CHUNK_ELEMENTS", 1)
    assert torch.equal(fit_clip(frames, 8, fps=8, height=7, width=13, fit="pad")[0], whole)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"fps": 0}, "fps: must be finite and above 0, got 0"),
        ({"fps": float("nan")}, "fps: must be finite"),
        ({"times_or_fps": 0.0}, "times_or_fps: a frame rate"),
        ({"times_or_fps": [0.0, 1.0]}, "must have the time of each of 3 frames and of the end"),
        ({"times_or_fps": [0.0, 2.0, 1.0, 3.0]}, "times must ascend"),
        ({"height": 0}, "height: must be above 0"),
        ({"width": -4}, "width: must be above 0"),
        ({"fit": "zoom"}, "fit: must be one of"),
        ({"frames_THW3": torch.zeros(3, 4, 4, 3)}, "must be a uint8 tensor"),
        ({"frames_THW3": torch.zeros(0, 4, 4, 3, dtype=torch.uint8)}, "without zeros"),
    ],
)
def test_bad_arguments(change, rule):
    arguments = {"frames_THW3": numbered(3), "times_or_fps": 8, "fps": 8, "height": 4, "width": 4} | change
    with pytest.raises(ReelmError, match=rule):
        fit_clip(arguments.pop("frames_THW3"), arguments.pop("times_or_fps"), **arguments)
