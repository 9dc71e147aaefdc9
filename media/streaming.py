"""Reading of clips of any length frame by frame, with resampling to a rate and a size, in constant memory.

    clip = stream_clip("film.mkv")                     # clip.fps, clip.frames: one by one
    frames = stream_fitted(clip, fps=8, height=128, width=128, fit="crop")
    for frame_HW3 in frames: ...

The frames are the same as those of `read_clip` and `fit_clip`. Images, animations and folders of images are read whole.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from ..core.errors import require
from ..core.files import as_path
from .clip import DEFAULT_LIMITS, ClipLimits
from .fitting import Fit, fit_clip, frame_count, lead
from .frame_decoder import open_video
from .picture_folder import FOLDER_FPS
from .reader import decode_file, is_video, reading

CHUNK = 8  # frames that are resized in one call


# The seconds from which and until which a frame is shown, and the frame (H, W, 3) uint8 RGB.
TimedFrame: TypeAlias = tuple[float, float, np.ndarray]


@dataclass(frozen=True, eq=False)
class FrameStream:
    """The frames of a clip as an iterator.

    Attributes:
        fps: The frames per second; that of the moving parts if the rate varies, and 1.0 for a still image.
        frames: The frames in order, from 0 seconds on. A still image ends when it begins.
        notes: What is missing from the file and what was done to its frames; complete when the last frame was read.
    """

    fps: float
    frames: Iterator[TimedFrame]
    notes: list[str] = field(default_factory=list)


def stream_clip(
    path: str | Path, *, limits: ClipLimits = DEFAULT_LIMITS, folder_fps: float = FOLDER_FPS
) -> FrameStream:
    """Open the clip at `path`: a video file, an animated or still image, or a folder of pictures.

    Args:
        path: The file or folder.
        limits: The limits on its size; `max_bytes` only applies to images, which are read whole.
        folder_fps: The frames per second of a folder of pictures that was not written by reelm.

    Raises:
        ClipError: There is no such file, it has no video or none that decodes, or exceeds the limits. The iterator of
            the frames raises it too.
    """
    path = as_path(path, "clip")
    with reading(path):
        clip = None if is_video(path) else decode_file(path, limits, folder_fps=folder_fps)
    if clip is None:
        notes: list[str] = []
        frames = _video_frames(path, limits, notes)
        rate, _, _ = next(frames)
        return FrameStream(rate, frames, notes)
    count = len(clip.frames_THW3)
    times = np.arange(count + 1) / clip.fps if clip.times is None else clip.times
    if count == 1 and clip.times is None:
        times = np.zeros(2)
    timed = zip(times[:-1].tolist(), times[1:].tolist(), clip.frames_THW3.numpy(), strict=True)
    return FrameStream(clip.fps, timed, list(clip.notes))


def _video_frames(path: Path, limits: ClipLimits, notes: list[str]) -> Iterator[TimedFrame]:
    """Yield the rate with an empty frame, then each frame; put the notes of the clip into `notes`."""
    # Callers process several files in parallel, so more threads here would only use more memory.
    with reading(path), open_video(path, threads=1) as video:
        limits.check(path, height=video.height, width=video.width, frames=1, seconds=video.seconds)
        yield video.fps, 0.0, np.empty((0, 0, 3), np.uint8)
        for start, stop, rgb in video.rgb(video.decode(limits.max_pixels)):
            limits.check(path, height=rgb.shape[0], width=rgb.shape[1], frames=1, seconds=stop)
            notes[:] = video.notes
            yield start, stop, rgb
        notes[:] = video.notes


def stream_fitted(clip: FrameStream, *, fps: float, height: int, width: int, fit: Fit = "crop") -> Iterator[np.ndarray]:
    """Yield the frames (height, width, 3) that `fit_clip` would return for the whole clip.

    Args:
        clip: The clip, whose frames are consumed.
        fps, height, width, fit: The same as for `fit_clip`.
    """
    frames = resampled(clip.frames, fps)
    while chunk := list(itertools.islice(frames, CHUNK)):
        fitted, _ = fit_clip(torch.from_numpy(np.stack(chunk)), fps, fps=fps, height=height, width=width, fit=fit)
        yield from fitted.numpy()


def resampled(frames: Iterable[TimedFrame], fps: float) -> Iterator[np.ndarray]:
    """Yield the frames that a player would show at 0, 1/fps, 2/fps, ... seconds, by the rule of `shown_frames`.

    Args:
        frames: The frames, whose times ascend from 0.
        fps: The frames per second of the result.

    Raises:
        ReelmError: `fps` is not finite and above 0.
    """
    require(np.isfinite(fps) and fps > 0, "fps", "must be finite and above 0", fps)
    latest, latest_start, end, chosen, yielded = None, 0.0, 0.0, 0, 0
    ready: deque[np.ndarray] = deque()
    for start, stop, frame in frames:
        counts_from = start - float(lead(start - latest_start, fps))
        while latest is not None and chosen / fps < counts_from:
            ready.append(latest)
            chosen += 1
        latest, latest_start, end = frame, start, stop
        # The last chosen frames may lie beyond the length in whole frames of the clip so far, and then wait.
        while ready and yielded < frame_count(end, fps):
            yield ready.popleft()
            yielded += 1
    while latest is not None and yielded < frame_count(end, fps):
        yield ready.popleft() if ready else latest
        yielded += 1
