"""What counts as frames: arrays of numpy and torch, and images of Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image

from reelm.core.errors import ReelmError
from reelm.media.arrays import as_frames
from reelm.media.clip import Clip

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (FRAMES, FRAMES),
        (torch.from_numpy(FRAMES), FRAMES),
        (FRAMES.transpose(0, 3, 1, 2), FRAMES),
        (FRAMES[0], FRAMES[:1]),
        (FRAMES[::-1], FRAMES[::-1]),
        (FRAMES.astype(np.float32) / 255, FRAMES),
        (FRAMES.astype(np.float64) / 255, FRAMES),
        (FRAMES.astype(">f4") / np.float32(255), FRAMES),
        (torch.from_numpy(FRAMES).half() / 255, FRAMES),
        (FRAMES.astype(np.float32) / 255 * 1.0005, FRAMES),
        (FRAMES[..., 0], FRAMES[..., :1].repeat(3, axis=-1)),
        (Image.fromarray(FRAMES[0]), FRAMES[:1]),
        ([Image.fromarray(frame) for frame in FRAMES], FRAMES),
        (list(FRAMES), FRAMES),
        (tuple(torch.from_numpy(FRAMES)), FRAMES),
    ],
)
def test_accepted_sources(source, expected):
    frames, fps = as_frames(source)
    assert fps is None and frames.dtype == torch.uint8 and frames.is_contiguous()
    assert np.array_equal(frames.numpy(), expected)


def test_clip_gives_its_rate_or_times():
    frames = torch.from_numpy(FRAMES)
    assert as_frames(Clip(frames, 8.0)) == (frames, 8.0)
    times = np.array([0.0, 0.4])
    assert as_frames(Clip(frames, 8.0, {}, times))[1] is times


NAN = np.full((2, 4, 4, 3), np.nan, np.float32)


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        (NAN, "must be finite, got 'NaN'"),
        (np.full((2, 4, 4, 3), 1.5), r"floats must be in \[0, 1\], got \(1.5, 1.5\)"),
        (np.full((2, 4, 4, 3), -0.5), r"floats must be in \[0, 1\]"),
        (np.full((2, 4, 4, 3), np.inf), r"floats must be in \[0, 1\]"),
        (FRAMES.astype(np.float32), r"floats must be in \[0, 1\]"),
        (FRAMES.astype(np.int64), "must be uint8, or float"),
        (FRAMES > 3, "must be uint8, or float"),
        (np.array([["a"]]), "must be uint8, or float"),
        (FRAMES[0, 0], r"must have shape .*got \(6, 3\)"),
        (FRAMES[None], "must have shape"),
        (np.zeros((2, 4, 4, 4), np.uint8), "must have shape"),
        (np.zeros((2, 3, 4, 3), np.uint8), "3 channels on one axis only"),
        (np.zeros((3, 8, 8), np.uint8), "ambiguous"),
        (np.zeros((0, 4, 4, 3), np.uint8), "size of zero"),
        ([], "at least one frame"),
        ([FRAMES[0], FRAMES[0, :3]], "must have one shape"),
        ([FRAMES[0], FRAMES[0] / 255.0], "must have one dtype"),
        ([FRAMES], r"frames in a list must have shape \(H, W, 3\)"),
        ("clip.mp4", "must be a numpy or torch array"),
        (None, "must be a numpy or torch array"),
    ],
)
def test_refused_sources(source, rule):
    with pytest.raises(ReelmError, match=f"clip: .*{rule}|clip: {rule}"):
        as_frames(source)
