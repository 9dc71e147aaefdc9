"""The data of clip files: frames in memory, limits on the size of a file, and the metadata stored in a file.

    clip = read_clip("holiday.mp4", limits=ClipLimits(max_seconds=60))      # reader.py
    write_clip("copy.mkv", clip.frames_THW3, clip.fps, metadata=clip.metadata)   # writer.py

Every file that reelm writes contains one JSON object: the caller's metadata and, under the reserved key `clip`, the
`ClipInfo`, which holds what some containers cannot (a gif has no frame rate, H.264 has no odd sizes).
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..core.errors import ClipError, require
from ..core.json_values import Json

INFO_KEY = "clip"
# Seconds of the coarsest clock tick of video containers.
ROUNDING = 1e-3


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip in memory.

    Attributes:
        frames_THW3: The frames, uint8 RGB.
        fps: The frames per second; that of the moving parts if the rate varies, and 1.0 for a still image.
        metadata: The metadata that reelm has stored in the file; empty if there is none.
        times: The seconds (T + 1,) at which each frame begins and the last one ends, from 0, if the rate varies or a
            frame is held; else None.
        notes: What is missing from the file and what was done to its frames, one line each.
    """

    frames_THW3: torch.Tensor
    fps: float
    metadata: Json = field(default_factory=dict)
    times: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """The duration in seconds, with that of the last frame."""
        return len(self.frames_THW3) / self.fps if self.times is None else float(self.times[-1])


def build_clip(
    path: Path, frames: Iterable[np.ndarray], times: Sequence[float] | np.ndarray, fps: float, metadata: Json,
    notes: Sequence[str] = (), *, expected: int | None = None,
) -> Clip:  # fmt: skip
    """Stack the frames of a clip, and drop the times of a clip whose frame rate is constant.

    Args:
        path: The file, for error messages.
        frames: The frames, each (H, W, 3) uint8.
        times: The seconds (T + 1,) at which each frame begins and the last one ends; a lone frame may end at once. With
            `expected` they, and the notes, may be lists that are complete only once the frames are read.
        fps: The frames per second.
        metadata: The metadata of the file.
        notes: The notes of the clip.
        expected: The number of frames that memory is reserved for, where their number is not known yet.

    Raises:
        ClipError: There is no frame, or the frames have several sizes.
    """
    frames_THW3 = _stack(path, frames, len(times) - 1 if expected is None else expected)
    count, seconds = len(frames_THW3), np.asarray(times, np.float64)
    seconds = seconds - seconds[0]
    steady = np.abs(seconds[:-1] - np.arange(count) / fps).max() <= ROUNDING
    held = seconds[-1] - seconds[-2] > 1.5 / fps
    kept_times = None if steady and not held else seconds
    return Clip(torch.from_numpy(frames_THW3), fps, metadata, kept_times, tuple(notes))


def _stack(path: Path, frames: Iterable[np.ndarray], expected: int) -> np.ndarray:
    """Return frames as one array; memory is reserved for the expected number, and doubled where there are more."""
    stacked, count = np.empty((0, 0, 0, 3), np.uint8), 0
    for frame in frames:
        if count == 0:
            stacked = np.empty((max(1, expected), *frame.shape), np.uint8)
        elif count == len(stacked):
            stacked = np.concatenate([stacked, np.empty_like(stacked)])
        if frame.shape != stacked.shape[1:]:
            raise ClipError(f"must have frames of one size, got {frame.shape} in {str(path)!r}")
        stacked[count] = frame
        count += 1
    if count == 0:
        raise ClipError(f"must have at least one frame, got 0 in {str(path)!r}")
    return stacked[:count]


@dataclass(frozen=True)
class ClipLimits:
    """Limits on the decoded size of a file, which are checked against its header and again while frames are decoded.

    Attributes:
        max_pixels: The largest height times width of a frame.
        max_bytes: The largest size of all frames that are kept, as 8-bit RGB.
        max_seconds: The longest duration; it does not apply where only the last seconds of a clip are read.
    """

    max_pixels: int = 8192 * 4320
    max_bytes: int = 4 * 2**30
    max_seconds: float = 3600.0

    def check(self, path: Path, *, height: int, width: int, frames: float, seconds: float = 0.0) -> None:
        """Check that a clip of this size is within the limits.

        Args:
            path: The file, for the error message.
            height: The rows of pixels.
            width: The columns of pixels.
            frames: The number of frames that are kept.
            seconds: The duration.

        Raises:
            ClipError: A limit is exceeded.
        """
        for quantity, value, limit in (
            ("pixels in a frame", height * width, self.max_pixels),
            ("bytes once decoded", height * width * 3 * frames, self.max_bytes),
            ("seconds", seconds, self.max_seconds),
        ):
            if not value <= limit:
                raise ClipError(f"must have at most {limit:g} {quantity}, got {value:g} in {str(path)!r}")


DEFAULT_LIMITS = ClipLimits()


@dataclass(frozen=True)
class ClipInfo:
    """The rate, number and size of a file's frames, as reelm stores them in the file.

    Attributes:
        fps: The frames per second.
        frames: The number of frames; None while a stream is being written.
        height: The rows of pixels.
        width: The columns of pixels.
    """

    fps: float
    frames: int | None
    height: int
    width: int


def pack_metadata(metadata: Mapping[str, object] | None, info: ClipInfo) -> str:
    """Return the JSON text to store in a file, in plain ASCII so that every container preserves it.

    Raises:
        ReelmError: The metadata is not a dict of JSON values, or uses the reserved key `clip`.
    """
    metadata = {} if metadata is None else metadata
    require(isinstance(metadata, dict), "metadata", "must be a dict", metadata)
    require(INFO_KEY not in metadata, "metadata", f"must not use the reserved key {INFO_KEY!r}", metadata)
    try:
        return json.dumps({**metadata, INFO_KEY: asdict(info)}, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        require(False, "metadata", f"must hold JSON values only ({error})", metadata)
        raise


def unpack_metadata(text: object) -> tuple[Json, ClipInfo | None]:
    """Return the metadata and the info in the text that `pack_metadata` has made; ({}, None) for any other value."""
    if not isinstance(text, str | bytes | bytearray):
        return {}, None
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError):
        return {}, None
    if not isinstance(metadata, dict):
        return {}, None
    return metadata, _info(metadata.pop(INFO_KEY, None))


def _info(values: object) -> ClipInfo | None:
    if not isinstance(values, dict) or set(values) != {"fps", "frames", "height", "width"}:
        return None
    fps, frames, sizes = values["fps"], values["frames"], (values["height"], values["width"])
    valid_rate = isinstance(fps, int | float) and math.isfinite(fps) and 0 < fps <= 1000
    counts = sizes if frames is None else (*sizes, frames)
    if not valid_rate or not all(type(count) is int and 0 < count < 2**31 for count in counts):
        return None
    return ClipInfo(float(fps), frames, *sizes)
