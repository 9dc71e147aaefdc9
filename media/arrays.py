"""Conversion of clips in memory to uint8 frames: numpy and torch arrays, PIL images, and lists of them.

frames_THW3, times_or_fps = as_frames(array_or_images_or_clip)
"""

import numpy as np
import torch

from ..core.errors import require
from .clip import Clip

# Resizers and decoders exceed [0, 1] by rounding errors; values further outside are on another scale.
TOLERANCE = 1e-3


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
