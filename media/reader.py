"""Reading of clips: any video file, gif, webp, still image, or a folder of PNGs that reelm wrote.

    clip = read_clip("holiday.mp4")                     # clip.frames_THW3 uint8, clip.fps
    tail = read_clip("holiday.mp4", last_seconds=2)     # the end of a long clip, in little memory

Colour tags and rotation are applied (the transfer curve of HDR video is not). A file that is truncated, broken or
larger than the limits raises a `ClipError`, and any exception of a decoder is converted to one.
"""

import contextlib
import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import ClipError, require
from ..core.files import as_path
from .clip import DEFAULT_LIMITS, ROUNDING, Clip, ClipLimits, build_clip
from .frame_decoder import open_video
from .images import read_folder, read_image

if TYPE_CHECKING:
    from av import VideoFrame


def read_clip(
    path: str | Path, *, limits: ClipLimits = DEFAULT_LIMITS, last_seconds: float | None = None, argument: str = "clip"
) -> Clip:
    """Decode the clip at `path`; see `Clip` for shapes and units.

    Args:
        path: A video file, gif, webp, still image (a clip of one frame), or a folder of PNGs written by reelm.
        limits: The limits on the size of the file, checked against its header first.
        last_seconds: The seconds at the end of the clip to keep; by default all.
        argument: The name of the clip in error messages.

    Raises:
        ClipError: There is no such file, it has no video, is truncated or broken, or exceeds the limits. The message
            names the file.
    """
    path = as_path(path, argument)
    kept_seconds = math.inf if last_seconds is None else last_seconds
    require(kept_seconds > 0, "last_seconds", "must be above 0", last_seconds)
    with reading(path, argument):
        if path.is_dir():
            return read_folder(path, limits, kept_seconds)
        return (_read_video if is_video(path) else read_image)(path, limits, kept_seconds)


def is_video(path: Path) -> bool:
    """Return whether `path` is a file that is not an image, judged by its first bytes and not by its name.

    Raises:
        ClipError: There is no such file, or it is empty.
    """
    if path.is_dir():
        return False
    if not path.is_file():
        raise ClipError(f"must be an existing file or folder, got {str(path)!r}")
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise ClipError(f"must not be empty, got {str(path)!r}")
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return not (is_webp or head.startswith((b"GIF8", b"\x89PNG\r\n", b"\xff\xd8\xff", b"BM")))


@contextlib.contextmanager
def reading(path: Path, argument: str = "clip") -> Iterator[None]:
    """Convert any exception raised in this context to a `ClipError` that names the argument and the file.

    The functions of media/ that are called in this context raise a `ClipError` with the rule and the file alone; the
    name of the argument is put before them here. The context must not be nested.
    """
    try:
        yield
    except ClipError as error:
        raise ClipError(f"{argument}: {error}") from error
    # Decoders raise many types of exceptions on broken files (UnicodeDecodeError, SyntaxError, struct.error, ...).
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise ClipError(f"{argument}: must be a readable video or image, got {str(path)!r} ({reason})") from error


# ---- video files: PyAV


def _read_video(path: Path, limits: ClipLimits, kept_seconds: float) -> Clip:
    with open_video(path) as video:
        seconds = video.seconds if math.isinf(kept_seconds) else 0.0
        frames = min(video.declared or video.seconds * video.fps, kept_seconds * video.fps)
        limits.check(path, height=video.height, width=video.width, frames=frames, seconds=seconds)
        kept: deque[tuple[float, VideoFrame]] = deque()
        for count, (time, frame) in enumerate(video.decode(limits.max_pixels), 1):
            kept.append((time, frame))
            while kept[0][0] <= time + 1 / video.fps - kept_seconds - ROUNDING and len(kept) > 1:
                kept.popleft()
            seconds = count / video.fps if math.isinf(kept_seconds) else 0.0
            limits.check(path, height=frame.height, width=frame.width, frames=len(kept), seconds=seconds)
        times = np.array([time for time, _ in kept])

        def images() -> Iterator[np.ndarray]:
            while kept:  # each decoded frame is freed once it is converted
                yield video.rgb(kept.popleft()[1])

        return build_clip(path, images(), times, video.fps, video.metadata)
