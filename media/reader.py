"""Reading of clips: any video file, animated or still image, or folder of pictures.

    clip = read_clip("holiday.mp4")                     # clip.frames_THW3 uint8, clip.fps
    tail = read_clip("holiday.mp4", last_seconds=2)     # the end of a long clip, in little memory

The frames are those that a player shows: see `normalization.py`. Everything of a truncated or damaged file that decodes
is read, and `clip.notes` says what is missing. A file of which nothing decodes, or that is larger than the limits,
raises a `ClipError`, and any exception of a decoder is converted to one.
"""

import contextlib
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import ClipError, require
from ..core.files import as_path
from ..core.progress import note
from .clip import DEFAULT_LIMITS, ROUNDING, Clip, ClipLimits, build_clip
from .frame_decoder import VideoFile, open_video
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
    """Decode the clip at `path`; see `Clip` for shapes and units. The notes of the clip go to stderr.

    Args:
        path: A video file, an animated image, a still image (a clip of one frame), or a folder of pictures.
        limits: The limits on the size of the file, checked against its header first.
        last_seconds: The seconds at the end of the clip to keep; by default all.
        folder_fps: The frames per second of a folder of pictures that was not written by reelm.
        argument: The name of the clip in error messages.

    Raises:
        ClipError: There is no such file, it has no video or none that decodes, or exceeds the limits. The message names
            the file.
    """
    path = as_path(path, argument)
    kept_seconds = math.inf if last_seconds is None else last_seconds
    require(kept_seconds > 0, "last_seconds", "must be above 0", last_seconds)
    require(math.isfinite(folder_fps) and folder_fps > 0, "folder_fps", "must be finite and above 0", folder_fps)
    with reading(path, argument):
        clip = decode_file(path, limits, kept_seconds, folder_fps)
    for line in clip.notes:
        note(f"{path.name}: {line}")
    return clip


def decode_file(path: Path, limits: ClipLimits, kept_seconds: float = math.inf, folder_fps: float = FOLDER_FPS) -> Clip:
    """Do what `read_clip` does, in the context of `reading`, without a word on stderr."""
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
        whole = math.isinf(kept_seconds)
        frames = min(video.declared or video.seconds * video.fps, kept_seconds * video.fps)
        seconds = video.seconds if whole else 0.0
        limits.check(path, height=video.height, width=video.width, frames=frames, seconds=seconds)
        return _read_whole(video, path, limits, frames) if whole else _read_end(video, path, limits, kept_seconds)


def _read_whole(video: VideoFile, path: Path, limits: ClipLimits, expected: float) -> Clip:
    """Read all frames; each is converted while the decoder is at the next ones."""
    times: list[float] = [0.0]
    notes: list[str] = []

    def frames() -> Iterator[np.ndarray]:
        for start, stop, rgb in video.rgb(video.decode(limits.max_pixels)):
            limits.check(path, height=rgb.shape[0], width=rgb.shape[1], frames=len(times), seconds=stop)
            times[-1:] = [start, stop]
            yield rgb
        notes[:] = video.notes

    return build_clip(path, frames(), times, video.fps, video.metadata, notes, expected=math.ceil(expected) + 1)


def _read_end(video: VideoFile, path: Path, limits: ClipLimits, kept_seconds: float) -> Clip:
    """Read the frames of the last seconds; those before are not converted."""
    kept: deque[tuple[float, float, VideoFrame]] = deque()
    for start, stop, frame in video.decode(limits.max_pixels):
        kept.append((start, stop, frame))
        while len(kept) > 1 and _is_before(kept[0][:2], stop - kept_seconds, video.fps):
            kept.popleft()
        height, width = max(frame.height, video.height), max(frame.width, video.width)
        limits.check(path, height=height, width=width, frames=len(kept))
    times = np.array([start for start, _, _ in kept] + [kept[-1][1]])
    times = np.maximum(times, times[-1] - kept_seconds)

    def undecoded() -> "Iterator[tuple[float, float, VideoFrame]]":
        while kept:  # each decoded frame is freed once it is converted
            yield kept.popleft()

    clip = build_clip(path, (rgb for _, _, rgb in video.rgb(undecoded())), times, video.fps, video.metadata)
    return replace(clip, notes=tuple(video.notes))


def _is_before(shown: tuple[float, float], second: float, fps: float) -> bool:
    """Return whether a frame, shown from one second to another, is before `second`; partly is enough if it is short."""
    start, stop = shown
    return stop <= second + ROUNDING or (start <= second - ROUNDING and stop - start <= 1.5 / fps)
