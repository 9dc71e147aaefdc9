"""Fitting of clips to a model's frame rate and size.

frames_THW3, change = fit_clip(frames_THW3, times_or_fps or 8, fps=8, height=64, width=64)
# change == "1280x720 at 25 fps -> 64x64 at 8 fps, centre crop", or None if nothing had to change
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch.nn import functional as F

from ..core.errors import require

Fit = Literal["crop", "pad", "stretch"]
Frames = TypeVar("Frames", np.ndarray, torch.Tensor)
FITS = ("crop", "pad", "stretch")
# The largest number of float32 values in one chunk of the resize: 64 MiB.
CHUNK_ELEMENTS = 2**24
# Seconds by which rounding in a file may make a time, or the typical time between frames, too small.
ROUNDED = 0.75e-3


class Box(NamedTuple):
    """A rectangle of the pixels of a picture."""

    top: int
    left: int
    height: int
    width: int

    def centre(self, height: int, width: int) -> "Box":
        """Return the box of this size, but at least one pixel and at most this box, in the middle of this one."""
        height, width = min(self.height, max(1, height)), min(self.width, max(1, width))
        return Box((self.height - height) // 2, (self.width - width) // 2, height, width)

    def of(self, frames_THW3: Frames) -> Frames:
        """Return a view of this part of frames."""
        return frames_THW3[:, self.top : self.top + self.height, self.left : self.left + self.width]


def fit_clip(
    frames_THW3: torch.Tensor,
    times_or_fps: np.ndarray | Sequence[float] | float,
    *,
    fps: float,
    height: int,
    width: int,
    fit: Fit = "crop",
) -> tuple[torch.Tensor, str | None]:
    """Resample a clip in time and space.

    Args:
        frames_THW3: The frames, uint8.
        times_or_fps: The frame rate of the clip, or the seconds (T + 1,) at which its frames begin and the last one
            ends, ascending.
        fps: The frames per second of the result; see `shown_frames`.
        height: The rows of pixels of the result.
        width: The columns of pixels of the result.
        fit: How to change the aspect ratio: "crop" fills the size and keeps the centre, "pad" shows the whole frame
            between black bars, "stretch" distorts it.

    Returns:
        The frames (T', height, width, 3) uint8, and a line that describes the change, or None if there was none.

    Raises:
        ReelmError: The frames, the rates, the size or `fit` are invalid.
    """
    frames_ok = isinstance(frames_THW3, torch.Tensor) and frames_THW3.ndim == 4 and frames_THW3.dtype == torch.uint8
    require(frames_ok, "frames_THW3", "must be a uint8 tensor (T, H, W, 3)", _shape_of(frames_THW3))
    require(
        frames_THW3.shape[3] == 3 and frames_THW3.numel() > 0,
        "frames_THW3",
        "must have shape (T, H, W, 3) without zeros",
        tuple(frames_THW3.shape),
    )
    require(height > 0, "height", "must be above 0", height)
    require(width > 0, "width", "must be above 0", width)
    require(fit in FITS, "fit", f"must be one of {FITS}", fit)
    source_count, source_height, source_width, _ = frames_THW3.shape
    index, source_fps = shown_frames(source_count, times_or_fps, fps)
    # A frame that is shown several times, as one that is held, is resized once.
    shown, repeats = np.unique(index, return_inverse=True)
    frames = frames_THW3 if len(shown) == source_count else frames_THW3[torch.from_numpy(shown)]
    frames, method = _resize(frames, height, width, fit)
    if len(shown) < len(index):
        frames = frames[torch.from_numpy(repeats)]

    before, after = f"{source_width}x{source_height}", f"{width}x{height}"
    same_time = len(index) == source_count and abs(source_fps - fps) < 1e-3
    if source_count > 1:
        before, after = f"{before} at {source_fps:.4g} fps", f"{after} at {fps:.4g} fps"
    if (source_count == 1 or same_time) and (source_height, source_width) == (height, width):
        return frames, None
    return frames, f"{before} -> {after}{method}"


def resample_frames(
    frames_THW3: torch.Tensor, times_or_fps: np.ndarray | Sequence[float] | float, fps: float
) -> tuple[torch.Tensor, float]:
    """Resample a clip in time: select the frames that a player would show at 0, 1/fps, 2/fps, ... seconds.

    See `shown_frames` for the rule.

    Args:
        frames_THW3: The frames; only the first axis matters.
        times_or_fps: The frames per second of the clip, or the seconds (T + 1,) at which each of its frames begins and
            the last one ends, ascending.
        fps: The frames per second of the result.

    Returns:
        The selected frames (T', H, W, 3), at least one, and the clip's own mean rate in frames per second.

    Raises:
        ReelmError: A rate is not finite and above 0, or the times do not ascend or do not match the frames.
    """
    index, rate = shown_frames(len(frames_THW3), times_or_fps, fps)
    unchanged = len(index) == len(frames_THW3) and bool((index == np.arange(len(index))).all())
    return frames_THW3 if unchanged else frames_THW3[torch.from_numpy(index)], rate


def shown_frames(
    count: int, times_or_fps: np.ndarray | Sequence[float] | float, fps: float
) -> tuple[np.ndarray, float]:
    """Return the indices (T',) of the frames that a player would show at 0, 1/fps, 2/fps, ... seconds.

    A frame counts from half the time between it and the one before it, but at most half an output frame, before it is
    shown: of frames that are close together the nearest one is taken (the later one of two equally near ones), and a
    frame that is held stays until half an output frame before the next one. A single frame with a rate, as a still
    image, stays a single frame.

    Args:
        count: The number of frames, at least one.
        times_or_fps, fps: The same as for `resample_frames`.

    Returns:
        The indices, at least one, and the clip's own mean rate in frames per second.

    Raises:
        ReelmError: The same as for `resample_frames`.
    """
    require(np.isfinite(fps) and fps > 0, "fps", "must be finite and above 0", fps)
    times = np.asarray(times_or_fps, np.float64)
    if times.ndim == 0:
        rate = float(times)
        require(np.isfinite(rate) and rate > 0, "times_or_fps", "a frame rate must be finite and above 0", rate)
        if count == 1:
            return np.zeros(1, np.int64), fps
        times = np.arange(count + 1) / rate
    rule = f"must have the time of each of {count} frames and of the end"
    require(times.shape == (count + 1,), "times_or_fps", rule, times.shape)
    gaps = np.diff(times)
    require(bool(np.isfinite(times).all() and (gaps >= 0).all()), "times_or_fps", "times must ascend", times)
    times = times - times[0]
    rate = count / float(times[-1]) if times[-1] > 0 else fps
    new_count = frame_count(float(times[-1]), fps)
    counts_from = times[1:-1] - lead(gaps[:-1], fps)
    return np.searchsorted(counts_from, np.arange(new_count) / fps, side="right"), rate


def lead(gap: np.ndarray | float, fps: float) -> np.ndarray:
    """Return by how many seconds a frame, `gap` seconds after the one before it, counts before it is shown."""
    return np.asarray(0.5 * np.minimum(gap, 1 / fps) + 1e-9)


def frame_count(seconds: float, fps: float) -> int:
    """Return the number of frames at `fps` of a clip that lasts `seconds`: the nearest one, halves rounded up.

    A tolerance allows for rounding errors and for the milliseconds to which Matroska rounds times, so that 31 frames at
    60 fps, which last 15.5 frames at 30 fps, always become 16.
    """
    return max(1, math.floor((seconds + ROUNDED) * fps + 0.5 + 1e-6))


def place(source_height: int, source_width: int, height: int, width: int, fit: Fit) -> tuple[Box, Box]:
    """Return which part of a picture is shown, and in which part of a picture of another size it is shown.

    Args:
        source_height, source_width: The size of the picture.
        height, width: The size to fit it to.
        fit: See `fit_clip`. With "crop" only a part of the picture is shown; with "pad" it is shown in a part.
    """
    scales = (height / source_height, width / source_width)
    shown, target = Box(0, 0, source_height, source_width), Box(0, 0, height, width)
    if fit == "crop":
        shown = shown.centre(round(height / max(scales)), round(width / max(scales)))
    elif fit == "pad":
        target = target.centre(round(source_height * min(scales)), round(source_width * min(scales)))
    return shown, target


def _resize(frames_THW3: torch.Tensor, height: int, width: int, fit: Fit) -> tuple[torch.Tensor, str]:
    source_height, source_width = frames_THW3.shape[1:3]
    if (source_height, source_width) == (height, width):
        return frames_THW3, ""
    shown, inner = place(source_height, source_width, height, width, fit)
    method = ""
    if shown[2:] != (source_height, source_width):
        method = ", centre crop"
    elif inner[2:] != (height, width):
        method = ", black bars"
    elif fit == "stretch" and abs(height * source_width / (source_height * width) - 1) > 1e-9:
        method = ", stretched"
    frames_THW3 = shown.of(frames_THW3)
    out = torch.zeros(len(frames_THW3), height, width, 3, dtype=torch.uint8)
    target = inner.of(out)
    step = max(1, CHUNK_ELEMENTS // (frames_THW3[0].numel() + target[0].numel()))
    for start in range(0, len(frames_THW3), step):
        chunk = frames_THW3[start : start + step].permute(0, 3, 1, 2).float()
        chunk = F.interpolate(chunk, inner[2:], mode="bilinear", antialias=True, align_corners=False)
        target[start : start + step] = chunk.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1)
    return out, method


def _shape_of(value: object) -> object:
    return (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor | np.ndarray) else type(value).__name__
