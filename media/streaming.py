"""Reading of clips of any length frame by frame, with resampling to a rate and a size, in constant memory.

    clip = stream_clip("film.mkv")                     # clip.fps, clip.frames: (seconds, (H, W, 3)) one by one
    frames = stream_fitted(clip, fps=8, height=128, width=128, fit="crop")
    for frame_HW3 in frames: ...

The frames are the same as those of `read_clip` and `fit_clip`. Images, animations and folders of images are read whole.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..core.errors import ClipError, require
from ..core.files import as_path
from .clip import DEFAULT_LIMITS, ClipLimits
from .fitting import Fit, fit_clip, frame_count
from .frame_decoder import open_video
from .picture_folder import FOLDER_FPS
from .reader import is_video, read_clip, reading

CHUNK = 8  # frames that are resized in one call


@dataclass(frozen=True, eq=False)
class FrameStream:
    """The frames of a clip as an iterator.

    Attributes:
        fps: The frames per second; the mean rate if the rate varies, and 1.0 for a still image.
        frames: The frames in order, as pairs of the seconds since the first frame and (H, W, 3) uint8 RGB.
    """

    fps: float
    frames: Iterator[tuple[float, np.ndarray]]


def stream_clip(
    path: str | Path, *, limits: ClipLimits = DEFAULT_LIMITS, folder_fps: float = FOLDER_FPS
) -> FrameStream:
    """Open the clip at `path`: a video file, an animated or still image, or a folder of pictures.

    Args:
        path: The file or folder.
        limits: The limits on its size; `max_bytes` only applies to images, which are read whole.
        folder_fps: The frames per second of a folder of pictures that was not written by reelm.

    Raises:
        ClipError: There is no such file, it has no video, is broken, or exceeds the limits. The iterator of the frames
            raises it too.
    """
    path = as_path(path, "clip")
    with reading(path):
        streamed = is_video(path)
    if streamed:
        frames = _video_frames(path, limits)
        rate, _ = next(frames)
        return FrameStream(rate, frames)
    clip = read_clip(path, limits=limits, folder_fps=folder_fps)
    times = np.arange(len(clip.frames_THW3)) / clip.fps if clip.times is None else clip.times[:-1]
    return FrameStream(clip.fps, zip(times.tolist(), clip.frames_THW3.numpy(), strict=True))


def _video_frames(path: Path, limits: ClipLimits) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the rate with an empty frame, then each frame with its time."""
    with reading(path), open_video(path) as video:
        limits.check(path, height=video.height, width=video.width, frames=1, seconds=video.seconds)
        yield video.fps, np.empty((0, 0, 3), np.uint8)
        first, shape = None, None
        # Callers process several files in parallel, so more threads here would only use more memory.
        for count, (time, frame) in enumerate(video.decode(limits.max_pixels, threads=1), 1):
            rgb = video.rgb(frame)
            first, shape = (time, rgb.shape) if first is None else (first, shape)
            # The frame before one with a distant time would be repeated until that time.
            seconds = max(count / video.fps, time - first)
            limits.check(path, height=frame.height, width=frame.width, frames=1, seconds=seconds)
            if rgb.shape != shape:
                raise ClipError(f"must have frames of one size, got {rgb.shape} in {str(path)!r}")
            yield time - first, rgb
        if first is None:
            raise ClipError(f"must have at least one frame, got 0 in {str(path)!r}")


def stream_fitted(clip: FrameStream, *, fps: float, height: int, width: int, fit: Fit = "crop") -> Iterator[np.ndarray]:
    """Yield the frames (height, width, 3) that `fit_clip` would return for the whole clip.

    Args:
        clip: The clip, whose frames are consumed.
        fps, height, width, fit: The same as for `fit_clip`.
    """
    frames = resampled(clip.frames, clip.fps, fps)
    while chunk := list(itertools.islice(frames, CHUNK)):
        fitted, _ = fit_clip(torch.from_numpy(np.stack(chunk)), fps, fps=fps, height=height, width=width, fit=fit)
        yield from fitted.numpy()


def resampled(frames: Iterable[tuple[float, np.ndarray]], own_fps: float, fps: float) -> Iterator[np.ndarray]:
    """Yield the frames that a player would show at 0, 1/fps, 2/fps, ... seconds, like `resample_frames`.

    If the rate varies, the typical time between frames is taken from the mean rate, since the median is not known yet.

    Args:
        frames: The frames as pairs (seconds, frame); a time below an earlier one counts as the latest before it.
        own_fps: The mean rate of the clip.
        fps: The frames per second of the result.

    Raises:
        ReelmError: `fps` is not finite and above 0.
    """
    require(np.isfinite(fps) and fps > 0, "fps", "must be finite and above 0", fps)
    slack = 0.5 * min(1 / own_fps, 1 / fps) + 1e-9
    now, latest, chosen, yielded = 0.0, None, 0, 0
    ready: deque[np.ndarray] = deque()
    for time, frame in frames:
        now = max(now, time)
        # The previous frame is shown until this one is nearer.
        while latest is not None and chosen / fps + slack < now:
            ready.append(latest)
            chosen += 1
        latest = frame
        # The last chosen frame may lie beyond the length in whole frames of the clip so far, and then waits.
        while ready and yielded < frame_count(now + 1 / own_fps, fps):
            yield ready.popleft()
            yielded += 1
    # A still image has no duration and stays a single frame.
    count = frame_count(now + 1 / own_fps, fps) if now else 1
    while latest is not None and yielded < count:
        yield ready.popleft() if ready else latest
        yielded += 1
