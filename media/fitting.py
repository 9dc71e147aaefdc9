"""Make any clip fit a model: arrays and images to uint8 frames, then to the model's frame rate and size.

frames_THW3, times_or_fps = as_frames(array_or_images_or_clip)
frames_THW3, said = fit_clip(frames_THW3, times_or_fps or 8, fps=8, height=64, width=64)
# said == "1280x720 at 25 fps -> 64x64 at 8 fps, centre crop", or None if nothing had to change
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from ..core.errors import require
from .clip import Clip

Fit = Literal["crop", "pad", "stretch"]
FITS = ("crop", "pad", "stretch")
# Floats of source pixels that one chunk of the resize may hold: 64 MiB.
CHUNK_ELEMENTS = 2**24
# Resizers and decoders overshoot [0, 1] by rounding; more than this is another scale.
TOLERANCE = 1e-3


ROUNDED = 0.75e-3  # seconds by which a time in a file, and a clip's usual time between frames, may be too small


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
        frames_THW3: uint8.
        times_or_fps: the frame rate of the clip, or the time of each of its frames in seconds, ascending.
        fps: frames per second to make; see `resample_frames`. A single frame stays a single frame.
        height: rows to make.
        width: columns to make.
        fit: `crop` fills the size and cuts the centre out, `pad` shows all between black bars, `stretch` distorts.

    Returns:
        The frames (T', height, width, 3) uint8, and one line that says what was done, or None if nothing was.

    Raises:
        ReelmError: the frames, the rates, the size or `fit` are wrong.
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
    frames, how = _resize(frames, height, width, fit)

    before, after = f"{source_width}x{source_height}", f"{width}x{height}"
    same_time = len(frames) == source_count and abs(source_fps - fps) < 1e-3
    if source_count > 1:
        before, after = f"{before} at {source_fps:.4g} fps", f"{after} at {fps:.4g} fps"
    if (source_count == 1 or same_time) and (source_height, source_width) == (height, width):
        return frames, None
    return frames, f"{before} -> {after}{how}"


def resample_frames(
    frames_THW3: torch.Tensor, times_or_fps: np.ndarray | Sequence[float] | float, fps: float
) -> tuple[torch.Tensor, float]:
    """The frames that a player would show at 0, 1/fps, 2/fps, ... seconds, to the nearest.

    At a constant rate that is the frame nearest in time (half way: the later one) while `fps` is below the clip's own
    rate; where a clip holds a picture for long, the picture stays until half an output frame before the next one.

    Args:
        frames_THW3: the frames; only the first axis matters.
        times_or_fps: frames per second, or (T,) ascending seconds.
        fps: frames per second to make.

    Returns:
        The chosen frames (T', H, W, 3), at least one, and the clip's own mean rate in frames per second.
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
    usual = float(np.median(gaps)) or 1 / rate
    wanted = whole_frames(float(times[-1] + usual), fps)
    if wanted == count and np.abs(times - np.arange(count) / fps).max() < 0.25 / fps:
        return frames_THW3, rate
    slack = 0.5 * min(usual, 1 / fps) + 1e-9
    index = np.searchsorted(times, np.arange(wanted) / fps + slack, side="right") - 1
    return frames_THW3[torch.from_numpy(index)], rate


def whole_frames(seconds: float, fps: float) -> int:
    """How many frames at `fps` a clip that lasts `seconds` is made into: the nearest count, the greater half way.

    With room for the last digit and for the milliseconds to which Matroska rounds times, so that 31 frames at 60 a
    second, which are 15.5 at 30, make 16 however they were added up.
    """
    return max(1, math.floor((seconds + ROUNDED) * fps + 0.5 + 1e-6))


def _resize(frames_THW3: torch.Tensor, height: int, width: int, fit: Fit) -> tuple[torch.Tensor, str]:
    source_height, source_width = frames_THW3.shape[1:3]
    if (source_height, source_width) == (height, width):
        return frames_THW3, ""
    # The scale that fills the size (crop), or that fits inside it (pad).
    scales = (height / source_height, width / source_width)
    how = ""
    inner_height, inner_width = height, width
    if fit == "crop":
        scale = max(scales)
        crop_height = min(source_height, max(1, round(height / scale)))
        crop_width = min(source_width, max(1, round(width / scale)))
        if (crop_height, crop_width) != (source_height, source_width):
            how = ", centre crop"
        top, left = (source_height - crop_height) // 2, (source_width - crop_width) // 2
        frames_THW3 = frames_THW3[:, top : top + crop_height, left : left + crop_width]
    elif fit == "pad":
        scale = min(scales)
        inner_height = min(height, max(1, round(source_height * scale)))
        inner_width = min(width, max(1, round(source_width * scale)))
        if (inner_height, inner_width) != (height, width):
            how = ", black bars"
    elif abs(scales[0] / scales[1] - 1) > 1e-9:
        how = ", stretched"
    out = torch.zeros(len(frames_THW3), height, width, 3, dtype=torch.uint8)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    target = out[:, top : top + inner_height, left : left + inner_width]
    step = max(1, CHUNK_ELEMENTS // (frames_THW3[0].numel() + target[0].numel()))
    for start in range(0, len(frames_THW3), step):
        chunk = frames_THW3[start : start + step].permute(0, 3, 1, 2).float()
        chunk = F.interpolate(chunk, (inner_height, inner_width), mode="bilinear", antialias=True, align_corners=False)
        target[start : start + step] = chunk.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1)
    return out, how


def as_frames(source: Any, argument: str = "clip") -> tuple[torch.Tensor, np.ndarray | float | None]:
    """Any in-memory clip as uint8 frames.

    Args:
        source: a numpy or torch array, uint8 or float in [0, 1], of shape (T, H, W, 3), (T, 3, H, W), (H, W, 3) or
            gray (T, H, W); a PIL image; a list of PIL images or of (H, W, 3) arrays; or a `Clip`.
        argument: what a refusal calls it.

    Returns:
        The frames (T, H, W, 3) uint8, and what `fit_clip` takes as `times_or_fps`: times or a rate for a `Clip`, None
        for all else.

    Raises:
        ReelmError: another type, rank or dtype, an ambiguous shape, a zero size, NaN, or floats outside [0, 1].
    """
    if isinstance(source, Clip):
        return source.frames_THW3, source.fps if source.times is None else source.times
    if isinstance(source, list | tuple):
        require(len(source) > 0, argument, "must hold at least one frame", source)
        images = [_array(item, argument) for item in source]
        shapes = sorted({tuple(image.shape) for image in images})
        require(len(shapes) == 1, argument, "frames in a list must have one shape", shapes)
        three_channels = len(shapes[0]) == 3 and shapes[0][2] == 3
        require(three_channels, argument, "frames in a list must have shape (H, W, 3)", shapes[0])
        dtypes = {image.dtype for image in images}
        require(len(dtypes) == 1, argument, "frames in a list must have one dtype", dtypes)
        return _to_uint8(_channels_last(torch.stack(images), argument), argument), None
    return _to_uint8(_channels_last(_array(source, argument), argument), argument), None


def _array(source: Any, argument: str) -> torch.Tensor:
    if isinstance(source, torch.Tensor):
        return source.detach().cpu()
    if isinstance(source, np.ndarray):
        numeric = source.dtype.kind in "uifb"
        require(numeric, argument, "must be uint8, or float in [0, 1]", source.dtype)
        # Byte order and negative strides are numpy's alone.
        return torch.from_numpy(np.ascontiguousarray(source, source.dtype.newbyteorder("=")))
    from PIL import Image

    is_image = isinstance(source, Image.Image)
    require(is_image, argument, "must be a numpy or torch array, a PIL image, or a list of them", type(source).__name__)
    return torch.from_numpy(np.array(source.convert("RGB")))


def _channels_last(array: torch.Tensor, argument: str) -> torch.Tensor:
    shape = tuple(array.shape)
    rule = "must have shape (T, H, W, 3), (T, 3, H, W), (H, W, 3) or gray (T, H, W)"
    require(array.ndim in (3, 4), argument, rule, shape)
    require(0 not in shape, argument, "must not have a size of zero", shape)
    if array.ndim == 4:
        first, last = shape[1] == 3, shape[3] == 3
        require(first or last, argument, rule, shape)
        require(not (first and last), argument, "must have 3 channels on one axis only: first or last", shape)
        return array if last else array.permute(0, 2, 3, 1)
    if shape[2] == 3:
        return array[None]
    # (3, H, W) is an image with its channels first, or three gray frames: the caller knows, we do not.
    require(shape[0] != 3, argument, "is ambiguous; add the axis of time or of channels to (3, H, W)", shape)
    return array[..., None].expand(-1, -1, -1, 3)


def _to_uint8(array_THW3: torch.Tensor, argument: str) -> torch.Tensor:
    if array_THW3.dtype == torch.uint8:
        return array_THW3.contiguous()
    require(array_THW3.is_floating_point(), argument, "must be uint8, or float in [0, 1]", array_THW3.dtype)
    low, high = float(array_THW3.min()), float(array_THW3.max())
    require(low == low and high == high, argument, "must be finite", "NaN")
    inside = low >= -TOLERANCE and high <= 1 + TOLERANCE
    require(inside, argument, "floats must be in [0, 1]", (low, high))
    return (array_THW3.float() * 255).round_().clamp_(0, 255).byte().contiguous()


def _shape_of(value: Any) -> Any:
    return (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor | np.ndarray) else type(value).__name__
