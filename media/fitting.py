"""Fitting of clips to a model: arrays and images to uint8 frames, then to the model's frame rate and size.

frames_THW3, times_or_fps = as_frames(array_or_images_or_clip)
frames_THW3, change = fit_clip(frames_THW3, times_or_fps or 8, fps=8, height=64, width=64)
# change == "1280x720 at 25 fps -> 64x64 at 8 fps, centre crop", or None if nothing had to change
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F

from ..core.errors import require
from .clip import Clip

Fit = Literal["crop", "pad", "stretch"]
FITS = ("crop", "pad", "stretch")
# The largest number of float32 values in one chunk of the resize: 64 MiB.
CHUNK_ELEMENTS = 2**24
# Resizers and decoders exceed [0, 1] by rounding errors; values further outside are on another scale.
TOLERANCE = 1e-3
# Seconds by which rounding in a file may make a time, or the typical time between frames, too small.
ROUNDED = 0.75e-3


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
        times_or_fps: The frame rate of the clip, or the time of each of its frames in seconds, ascending.
        fps: The frames per second of the result; see `resample_frames`. A single frame stays a single frame.
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
    frames, source_fps = resample_frames(frames_THW3, times_or_fps, fps)
    frames, method = _resize(frames, height, width, fit)

    before, after = f"{source_width}x{source_height}", f"{width}x{height}"
    same_time = len(frames) == source_count and abs(source_fps - fps) < 1e-3
    if source_count > 1:
        before, after = f"{before} at {source_fps:.4g} fps", f"{after} at {fps:.4g} fps"
    if (source_count == 1 or same_time) and (source_height, source_width) == (height, width):
        return frames, None
    return frames, f"{before} -> {after}{method}"


def resample_frames(
    frames_THW3: torch.Tensor, times_or_fps: np.ndarray | Sequence[float] | float, fps: float
) -> tuple[torch.Tensor, float]:
    """Resample a clip in time: select the frames that a player would show at 0, 1/fps, 2/fps, ... seconds.

    If `fps` is below the constant rate of a clip, this is the frame nearest in time (the later one of two equally near
    ones). A frame that is shown for long stays until half an output frame before the next one.

    Args:
        frames_THW3: The frames; only the first axis matters.
        times_or_fps: The frames per second of the clip, or the seconds (T,) of its frames, ascending.
        fps: The frames per second of the result.

    Returns:
        The selected frames (T', H, W, 3), at least one, and the clip's own mean rate in frames per second.

    Raises:
        ReelmError: A rate is not finite and above 0, or the times do not ascend or do not match the frames.
    """
    require(np.isfinite(fps) and fps > 0, "fps", "must be finite and above 0", fps)
    count = len(frames_THW3)
    times = np.asarray(times_or_fps, np.float64)
    if times.ndim == 0:
        rate = float(times)
        require(np.isfinite(rate) and rate > 0, "times_or_fps", "a frame rate must be finite and above 0", rate)
        times = np.arange(count) / rate
    require(times.shape == (count,), "times_or_fps", f"must have one time for each of {count} frames", times.shape)
    gaps = np.diff(times)
    require(bool(np.isfinite(times).all() and (gaps >= 0).all()), "times_or_fps", "times must ascend", times)
    if count == 1 or times[-1] == times[0]:
        return frames_THW3[:1] if count > 1 else frames_THW3, fps
    times = times - times[0]
    rate = float((count - 1) / times[-1])
    typical_gap = float(np.median(gaps)) or 1 / rate
    new_count = frame_count(float(times[-1] + typical_gap), fps)
    if new_count == count and np.abs(times - np.arange(count) / fps).max() < 0.25 / fps:
        return frames_THW3, rate
    slack = 0.5 * min(typical_gap, 1 / fps) + 1e-9
    index = np.searchsorted(times, np.arange(new_count) / fps + slack, side="right") - 1
    return frames_THW3[torch.from_numpy(index)], rate


def frame_count(seconds: float, fps: float) -> int:
    """Return the number of frames at `fps` of a clip that lasts `seconds`: the nearest one, halves rounded up.

    A tolerance allows for rounding errors and for the milliseconds to which Matroska rounds times, so that 31 frames at
    60 fps, which last 15.5 frames at 30 fps, always become 16.
    """
    return max(1, math.floor((seconds + ROUNDED) * fps + 0.5 + 1e-6))


def _resize(frames_THW3: torch.Tensor, height: int, width: int, fit: Fit) -> tuple[torch.Tensor, str]:
    source_height, source_width = frames_THW3.shape[1:3]
    if (source_height, source_width) == (height, width):
        return frames_THW3, ""
    scales = (height / source_height, width / source_width)
    method = ""
    inner_height, inner_width = height, width
    if fit == "crop":
        scale = max(scales)
        crop_height = min(source_height, max(1, round(height / scale)))
        crop_width = min(source_width, max(1, round(width / scale)))
        if (crop_height, crop_width) != (source_height, source_width):
            method = ", centre crop"
        top, left = (source_height - crop_height) // 2, (source_width - crop_width) // 2
        frames_THW3 = frames_THW3[:, top : top + crop_height, left : left + crop_width]
    elif fit == "pad":
        scale = min(scales)
        inner_height = min(height, max(1, round(source_height * scale)))
        inner_width = min(width, max(1, round(source_width * scale)))
        if (inner_height, inner_width) != (height, width):
            method = ", black bars"
    elif abs(scales[0] / scales[1] - 1) > 1e-9:
        method = ", stretched"
    out = torch.zeros(len(frames_THW3), height, width, 3, dtype=torch.uint8)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    target = out[:, top : top + inner_height, left : left + inner_width]
    step = max(1, CHUNK_ELEMENTS // (frames_THW3[0].numel() + target[0].numel()))
    for start in range(0, len(frames_THW3), step):
        chunk = frames_THW3[start : start + step].permute(0, 3, 1, 2).float()
        chunk = F.interpolate(chunk, (inner_height, inner_width), mode="bilinear", antialias=True, align_corners=False)
        target[start : start + step] = chunk.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1)
    return out, method


def as_frames(source: object, argument: str = "clip") -> tuple[torch.Tensor, np.ndarray | float | None]:
    """Convert a clip in memory to uint8 frames.

    Args:
        source: A numpy or torch array, uint8 or float in [0, 1], of shape (T, H, W, 3), (T, 3, H, W), (H, W, 3) or
            gray (T, H, W); a PIL image; a list of PIL images or of (H, W, 3) arrays; or a `Clip`.
        argument: The name of the clip in error messages.

    Returns:
        The frames (T, H, W, 3) uint8, and the `times_or_fps` for `fit_clip`: the times or the rate of a `Clip`, else
        None.

    Raises:
        ReelmError: The type, rank or dtype is another, the shape is ambiguous or has a zero, or floats are NaN or
            outside [0, 1].
    """
    if isinstance(source, Clip):
        return source.frames_THW3, source.fps if source.times is None else source.times
    images = [_array(item) for item in source] if isinstance(source, list | tuple) else [_array(source)]
    rule, value = _problem(images, listed=isinstance(source, list | tuple)) or ("", None)
    require(not rule, argument, rule, value)
    arrays = [image for image in images if isinstance(image, torch.Tensor)]
    return _to_uint8(_channels_last(torch.stack(arrays) if isinstance(source, list | tuple) else arrays[0])), None


def _array(source: object) -> torch.Tensor | object:
    """Return the array of numbers of a picture or clip, or `source` itself if it is none."""
    if isinstance(source, torch.Tensor):
        return source.detach().cpu()
    if isinstance(source, np.ndarray):
        # torch has neither numpy's byte orders nor its negative strides.
        plain = np.ascontiguousarray(source, source.dtype.newbyteorder("="))
        return torch.from_numpy(plain) if source.dtype.kind in "uifb" else source
    from PIL import Image

    return torch.from_numpy(np.array(source.convert("RGB"))) if isinstance(source, Image.Image) else source


def _problem(images: list[torch.Tensor | object], *, listed: bool) -> tuple[str, object] | None:
    """Return the first rule that these arrays break and the value that breaks it, or None if they are frames."""
    arrays = [image for image in images if isinstance(image, torch.Tensor)]
    other = next((image for image in images if not isinstance(image, torch.Tensor)), None)
    if isinstance(other, np.ndarray):
        return "must be uint8, or float in [0, 1]", other.dtype
    if len(arrays) < len(images):
        return "must be a numpy or torch array, a PIL image, or a list of them", type(other).__name__
    if not arrays:
        return "must hold at least one frame", images
    shapes, dtypes = sorted({tuple(array.shape) for array in arrays}), {array.dtype for array in arrays}
    if len(shapes) > 1:
        return "frames in a list must have one shape", shapes
    if listed and not (len(shapes[0]) == 3 and shapes[0][2] == 3):
        return "frames in a list must have shape (H, W, 3)", shapes[0]
    if len(dtypes) > 1:
        return "frames in a list must have one dtype", dtypes
    if listed and 0 in shapes[0]:
        return "must not have a size of zero", shapes[0]
    return (None if listed else _shape_problem(shapes[0])) or _value_problem(arrays)


def _shape_problem(shape: tuple[int, ...]) -> tuple[str, object] | None:
    rule = "must have shape (T, H, W, 3), (T, 3, H, W), (H, W, 3) or gray (T, H, W)"
    if len(shape) not in (3, 4):
        return rule, shape
    if 0 in shape:
        return "must not have a size of zero", shape
    if len(shape) == 4:
        first, last = shape[1] == 3, shape[3] == 3
        if first and last:
            return "must have 3 channels on one axis only: first or last", shape
        return None if first or last else (rule, shape)
    # (3, H, W) could be an image with its channels first or three gray frames.
    ambiguous = shape[0] == 3 and shape[2] != 3
    return ("is ambiguous; add the axis of time or of channels to (3, H, W)", shape) if ambiguous else None


def _value_problem(arrays: list[torch.Tensor]) -> tuple[str, object] | None:
    if arrays[0].dtype == torch.uint8:
        return None
    if not arrays[0].is_floating_point():
        return "must be uint8, or float in [0, 1]", arrays[0].dtype
    low, high = min(float(array.min()) for array in arrays), max(float(array.max()) for array in arrays)
    if any(bool(array.isnan().any()) for array in arrays):
        return "must be finite", "NaN"
    inside = low >= -TOLERANCE and high <= 1 + TOLERANCE
    return None if inside else ("floats must be in [0, 1]", (low, high))


def _channels_last(array: torch.Tensor) -> torch.Tensor:
    """Return frames (T, H, W, 3) of an array whose shape is one of those that `as_frames` accepts."""
    if array.ndim == 4:
        return array if array.shape[3] == 3 else array.permute(0, 2, 3, 1)
    return array[None] if array.shape[2] == 3 else array[..., None].expand(-1, -1, -1, 3)


def _to_uint8(array_THW3: torch.Tensor) -> torch.Tensor:
    if array_THW3.dtype == torch.uint8:
        return array_THW3.contiguous()
    return (array_THW3.float() * 255).round_().clamp_(0, 255).byte().contiguous()


def _shape_of(value: object) -> object:
    return (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor | np.ndarray) else type(value).__name__
