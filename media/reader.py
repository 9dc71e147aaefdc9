"""Reading of clips: any video file, animated or still image, or folder of pictures.

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
from .images import image_format, read_image
from .picture_folder import FOLDER_FPS, read_folder

if TYPE_CHECKING:
    from av import VideoFrame


def read_clip(
    path: str | Path,
    *,
    limits: ClipLimits = DEFAULT_LIMITS,
    last_seconds: float | None = None,
    folder_fps: float = FOLDER_FPS,
    argument: str = "clip",
) -> Clip:
    """Decode the clip at `path`; see `Clip` for shapes and units.

    Args:
        path: A video file, an animated image, a still image (a clip of one frame), or a folder of pictures.
        limits: The limits on the size of the file, checked against its header first.
        last_seconds: The seconds at the end of the clip to keep; by default all.
        folder_fps: The frames per second of a folder of pictures that was not written by reelm.
        argument: The name of the clip in error messages.

    Raises:
        ClipError: There is no such file, it has no video, is truncated or broken, or exceeds the limits. The message
            names the file.
    """
    path = as_path(path, argument)
    kept_seconds = math.inf if last_seconds is None else last_seconds
    require(kept_seconds > 0, "last_seconds", "must be above 0", last_seconds)
    require(math.isfinite(folder_fps) and folder_fps > 0, "folder_fps", "must be finite and above 0", folder_fps)
    with reading(path, argument):
        if path.is_dir():
            return read_folder(path, limits, kept_seconds, folder_fps)
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
    if not path.stat().st_size:
        raise ClipError(f"must not be empty, got {str(path)!r}")
    return image_format(path) is None


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
        times = np.maximum.accumulate([*times, times[-1] + 1 / video.fps])

        def images() -> Iterator[np.ndarray]:
            while kept:  # each decoded frame is freed once it is converted
                yield video.rgb(kept.popleft()[1])

        return build_clip(path, images(), times, video.fps, video.metadata)
