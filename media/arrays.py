"""Conversion of clips in memory to uint8 frames: numpy and torch arrays, PIL images, and lists of them.

frames_THW3, times_or_fps = as_frames(array_or_images_or_clip)
"""

import math

import numpy as np
import torch

from ..core.errors import ClipError, ReelmError, require
from .clip import DEFAULT_LIMITS, Clip
from .colours import TOLERANCE, to_srgb
from .images import ANIMATED

RULE = "must be a numpy or torch array, a PIL image, or a list of them"
SHAPES = "must have shape (T, H, W, C), (T, C, H, W), (H, W, C), grey (T, H, W) or grey (H, W), with 1 to 4 channels"
TYPES = "must be uint8, uint16, bool, or float in [0, 1]"
NUMBERS = ("uint8", "uint16", "bool", "float16", "float32", "float64")
COLOUR = (3, 4)
GREY = (1, 2)


def as_frames(source: object, argument: str = "clip") -> tuple[torch.Tensor, np.ndarray | float | None]:
    """Convert a clip in memory to uint8 frames.

    An array has one of these shapes, where C counts channels: 1 is grey, 3 RGB, and 2 or 4 the same with an alpha,
    which goes on black.

    - (T, H, W, C) or (T, C, H, W): a clip. It is refused if both axes are 3 or 4 long, so that either could be C.
    - (H, W, C): a still. It is refused if H is 3 or 4 too.
    - (T, H, W) with W above 4: a grey clip. It is refused if T is 3 or 4, and could be C.
    - (H, W): a grey still.

    Values are uint8; uint16, where 65535 is white; bool, where True is white; or floats from 0 to 1. An array is never
    modified, but frames of uint8 may share its memory.

    Args:
        source: A numpy or torch array; a PIL image of any mode, which is read like a file (see `to_srgb`); a list of
            stills, each a PIL image or an array (H, W, C), (C, H, W) or (H, W); or a `Clip`.
        argument: The name of the clip in error messages.

    Returns:
        The frames (T, H, W, 3) uint8, and the `times_or_fps` for `fit_clip`: the times or the rate of a `Clip`, else
        None.

    Raises:
        ReelmError: The type, rank or dtype is another, the shape is ambiguous or has a zero, the items of a list have
            several sizes or dtypes, floats are NaN or outside [0, 1], a PIL image is animated, or there is more than
            `check_size` admits.
    """
    if isinstance(source, Clip):
        return source.frames_THW3, source.fps if source.times is None else source.times
    check_size(source, argument)
    from PIL import Image

    if isinstance(source, list | tuple):
        return _join_stills(list(source), argument), None
    if isinstance(source, Image.Image):
        rule = "an animated image must be given as its path, or as a list of its frames"
        animated = source.format in ("PNG", *ANIMATED) and getattr(source, "is_animated", False)
        require(not animated, argument, rule, source)
        return _read_still(source, argument), None
    array = _array(source, argument)
    shape = tuple(array.shape)
    require(array.ndim in (2, 3, 4), argument, SHAPES, shape)
    if array.ndim == 2:
        return _frames(array[None, ..., None], argument), None
    if array.ndim == 3 and shape[2] not in GREY + COLOUR:
        ambiguous = "is ambiguous; add the axis of time or of channels to (3, H, W) or (4, H, W)"
        require(shape[0] not in COLOUR, argument, ambiguous, shape)
        return _frames(array[..., None], argument), None
    return _frames(_channels_last(array, argument, first=array.ndim == 4), argument), None


def check_size(source: object, argument: str) -> None:
    """Refuse frames in memory that are larger than those of a file may be (`ClipLimits`), before anything is copied."""
    pixels = sum(map(_count_pixels, source if isinstance(source, list | tuple) else [source]))
    most = DEFAULT_LIMITS.max_bytes
    rule = f"must have at most {most / 2**30:g} GiB of frames as 8-bit RGB"
    require(3 * pixels <= most, argument, rule, f"{3 * pixels / 2**30:.3g} GiB")


def _count_pixels(item: object) -> int:
    """Return the pixels of an array or a PIL image; 0 for anything else."""
    shape: tuple[int, ...] = tuple(getattr(item, "shape", ()))
    if not shape:
        width, height = getattr(item, "width", 0), getattr(item, "height", 0)
        return width * height if isinstance(width, int) and isinstance(height, int) else 0
    channels = next((shape[axis] for axis in (-1, -3) if len(shape) > 2 and 1 <= shape[axis] <= 4), 1)
    return math.prod(shape) // channels


def _join_stills(items: list[object], argument: str) -> torch.Tensor:
    require(len(items) > 0, argument, "must hold at least one frame", items)
    dtypes = {item.dtype for item in items if isinstance(item, np.ndarray | torch.Tensor)}
    require(len(dtypes) <= 1, argument, "frames in a list must have one dtype", dtypes)
    stills = [_read_still(item, argument) for item in items]
    sizes = sorted({tuple(still.shape[1:3]) for still in stills})
    require(len(sizes) == 1, argument, "frames in a list must have one size (H, W)", sizes)
    return torch.cat(stills)


def _read_still(item: object, argument: str) -> torch.Tensor:
    """Return a PIL image, or an array (H, W, C), (C, H, W) or (H, W), as one frame (1, H, W, 3) uint8."""
    from PIL import Image

    if isinstance(item, Image.Image):
        try:
            return torch.from_numpy(np.array(to_srgb(item)[0]))[None]
        except ClipError as error:
            raise ReelmError(f"{argument}: {error}") from error
    array = _array(item, argument)
    rule = "frames in a list must have shape (H, W, C), (C, H, W) or (H, W)"
    require(array.ndim in (2, 3), argument, rule, tuple(array.shape))
    return _frames(array[..., None] if array.ndim == 2 else _channels_last(array, argument, first=True), argument)


def _array(source: object, argument: str) -> torch.Tensor:
    """Return an array as a tensor, of one of the types of numbers that `as_frames` accepts."""
    if isinstance(source, torch.Tensor):
        known = source.is_floating_point() or source.dtype in (torch.uint8, torch.uint16, torch.bool)
        require(known and source.layout == torch.strided, argument, TYPES, (source.dtype, source.layout))
        return source.detach().cpu()
    require(isinstance(source, np.ndarray), argument, RULE, type(source).__name__)
    assert isinstance(source, np.ndarray)
    require(source.dtype.name in NUMBERS, argument, TYPES, source.dtype)
    # torch has neither numpy's byte orders nor its negative strides, and warns of arrays that are read-only.
    return torch.from_numpy(np.require(source, source.dtype.newbyteorder("="), ["C", "W", "E"]))


def _channels_last(array: torch.Tensor, argument: str, *, first: bool) -> torch.Tensor:
    """Return an array (..., H, W, C) of one that is (..., H, W, C) or, if `first`, (..., C, H, W)."""
    shape = tuple(array.shape)
    both = shape[-3] in COLOUR and shape[-1] in COLOUR
    require(not both, argument, "is ambiguous: its channels must be on one axis only, first or last", shape)
    if shape[-1] in COLOUR or (shape[-1] in GREY and shape[-3] not in COLOUR):
        return array
    require(first and shape[-3] in GREY + COLOUR, argument, SHAPES, shape)
    return array.movedim(-3, -1)


def _frames(array: torch.Tensor, argument: str) -> torch.Tensor:
    """Return an array ([T,] H, W, C) as frames (T, H, W, 3) uint8."""
    require(0 not in array.shape, argument, "must not have a size of zero", tuple(array.shape))
    _check_range(array, argument)
    values = _to_uint8(array if array.ndim == 4 else array[None])
    if values.shape[-1] in (2, 4):
        values, alpha = values[..., :-1].int(), values[..., -1:].int()
        values = ((values * alpha + 127) // 255).byte()
    return values.expand(-1, -1, -1, 3).contiguous()


def _check_range(array: torch.Tensor, argument: str) -> None:
    if array.is_floating_point():
        require(not bool(array.isnan().any()), argument, "must be finite", "NaN")
        low, high = float(array.min()), float(array.max())
        inside = low >= -TOLERANCE and high <= 1 + TOLERANCE
        require(inside, argument, "floats must be in [0, 1]", (low, high))


def _to_uint8(array: torch.Tensor) -> torch.Tensor:
    if array.dtype == torch.uint8:
        return array
    if array.dtype == torch.uint16:
        return ((array.int() * 255 + 32767) // 65535).byte()
    if array.dtype == torch.bool:
        return array.byte() * 255
    return (array.float() * 255).round_().clamp_(0, 255).byte()
