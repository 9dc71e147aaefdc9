"""What a clip file holds: its frames in memory, the limits on reading it, and the settings that travel inside it.

    clip = read_clip("holiday.mp4", limits=ClipLimits(max_seconds=60))      # reader.py
    write_clip("copy.mkv", clip.frames_THW3, clip.fps, metadata=clip.metadata)   # writer.py

Every file that reelm writes carries one JSON table: the caller's metadata and, under the reserved key `clip`, the
`Layout`, which says what some containers cannot (a gif has no frame rate, H.264 has no odd sizes).
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import ClipError, require

LAYOUT_KEY = "clip"


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip in memory.

    Attributes:
        frames_THW3: uint8 RGB.
        fps: frames per second; the mean rate where it varies, and 1.0 for a still image.
        metadata: the table that reelm wrote into the file; empty where there is none.
        times: (T,) seconds from the first frame, only where the frame rate varies, else None.
    """

    frames_THW3: torch.Tensor
    fps: float
    metadata: dict[str, Any] = field(default_factory=dict)
    times: np.ndarray | None = None


@dataclass(frozen=True)
class ClipLimits:
    """How large a file may be once decoded; checked from its header first, and again while frames arrive.

    Attributes:
        max_pixels: height times width of one frame.
        max_bytes: all frames that are kept, as 8-bit RGB.
        max_seconds: the whole clip (not asked of a long clip of which only the last seconds are read).
    """

    max_pixels: int = 8192 * 4320
    max_bytes: int = 4 * 2**30
    max_seconds: float = 3600.0

    def check(self, path: Path, *, height: int, width: int, frames: float, seconds: float = 0.0) -> None:
        """Raise `ClipError` if so many frames of this size (pixels) and duration are above the limits."""
        for what, value, limit in (
            ("pixels in a frame", height * width, self.max_pixels),
            ("bytes once decoded", height * width * 3 * frames, self.max_bytes),
            ("seconds", seconds, self.max_seconds),
        ):
            if not value <= limit:
                raise ClipError(f"clip: must have at most {limit:g} {what}, got {value:g} in {str(path)!r}")


DEFAULT_LIMITS = ClipLimits()


@dataclass(frozen=True)
class Layout:
    """What a file says of its own frames: frames per second, number (None while a stream grows), height and width."""

    fps: float
    frames: int | None
    height: int
    width: int


def pack_metadata(metadata: dict[str, Any] | None, layout: Layout) -> str:
    """The JSON text that is stored in a file, in plain ASCII so that it survives every container.

    Raises:
        ReelmError: the metadata is not a table of JSON values, or uses the reserved key `clip`.
    """
    metadata = {} if metadata is None else metadata
    require(isinstance(metadata, dict), "metadata", "must be a dict", metadata)
    require(LAYOUT_KEY not in metadata, "metadata", f"must not use the reserved key {LAYOUT_KEY!r}", metadata)
    try:
        return json.dumps({**metadata, LAYOUT_KEY: asdict(layout)}, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        require(False, "metadata", f"must hold JSON values only ({error})", metadata)
        raise


def unpack_metadata(text: Any) -> tuple[dict[str, Any], Layout | None]:
    """The table and the layout in a file's text; ({}, None) where the text is absent, foreign or broken."""
    try:
        metadata = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return {}, None
    if not isinstance(metadata, dict):
        return {}, None
    return metadata, _layout(metadata.pop(LAYOUT_KEY, None))


def _layout(values: Any) -> Layout | None:
    if not isinstance(values, dict) or set(values) != {"fps", "frames", "height", "width"}:
        return None
    fps, frames, sizes = values["fps"], values["frames"], (values["height"], values["width"])
    rate_is_sane = isinstance(fps, int | float) and math.isfinite(fps) and 0 < fps <= 1000
    counts = sizes if frames is None else (*sizes, frames)
    if not rate_is_sane or not all(type(count) is int and 0 < count < 2**31 for count in counts):
        return None
    return Layout(float(fps), frames, *sizes)
