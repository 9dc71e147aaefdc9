"""Read a clip of any length frame by frame, and bring it to a rate and a size on the way: memory does not grow with it.

    clip = stream_clip("film.mkv")                     # clip.fps, clip.frames: (seconds, (H, W, 3)) one by one
    frames = stream_fitted(clip, fps=8, height=128, width=128, fit="crop")
    for frame_HW3 in frames: ...

The frames are those of `read_clip` and `fit_clip`. Images, animated ones and folders of them are read whole.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..core.errors import ClipError, require
from .clip import DEFAULT_LIMITS, ClipLimits
from .fitting import Fit, fit_clip, whole_frames
from .frame_decoder import open_video
from .reader import is_video, read_clip, reading

CHUNK = 8  # frames that are made to fit at once


@dataclass(frozen=True, eq=False)
class ClipStream:
    """A clip as its frames arrive.

    Attributes:
        fps: frames per second; the mean rate where it varies, and 1.0 for a still image.
        frames: (seconds since the first frame, (H, W, 3) uint8 RGB), to be gone through once.
    """

    fps: float
    frames: Iterator[tuple[float, np.ndarray]]


def stream_clip(path: str | Path, *, limits: ClipLimits = DEFAULT_LIMITS) -> ClipStream:
    """Open the clip at `path`: a video file, gif, webp, still image or a folder of PNGs written by reelm.

    Args:
        path: the file or folder.
        limits: the size above which it is refused; `max_bytes` is asked of images alone, which are read whole.

    Raises:
        ClipError: nothing there, no video in it, broken, or above the limits; while its frames arrive, too.
    """
    path = Path(path)
    with reading(path):
        if is_video(path):
            frames = _video_frames(path, limits)
            rate, _ = next(frames)
            return ClipStream(rate, frames)
        clip = read_clip(path, limits=limits)
    times = np.arange(len(clip.frames_THW3)) / clip.fps if clip.times is None else clip.times
    return ClipStream(clip.fps, zip(times.tolist(), clip.frames_THW3.numpy(), strict=True))


def _video_frames(path: Path, limits: ClipLimits) -> Iterator[tuple[float, np.ndarray]]:
    """The rate with an empty frame, then each frame with its time."""
    with reading(path), open_video(path) as video:
        limits.check(path, height=video.height, width=video.width, frames=1, seconds=video.seconds)
        yield video.fps, np.empty((0, 0, 3), np.uint8)
        first, shape = None, None
        # Work is shared over files: more threads here would only hold more frames.
        for count, (time, frame) in enumerate(video.decode(limits.max_pixels, threads=1), 1):
            rgb = video.rgb(frame)
            first, shape = (time, rgb.shape) if first is None else (first, shape)
            # A frame whose time is far off would be repeated until then.
            seconds = max(count / video.fps, time - first)
            limits.check(path, height=frame.height, width=frame.width, frames=1, seconds=seconds)
            if rgb.shape != shape:
                raise ClipError(f"clip: must have frames of one size, got {rgb.shape} in {str(path)!r}")
            yield time - first, rgb
        if first is None:
            raise ClipError(f"clip: must have at least one frame, got 0 in {str(path)!r}")


def stream_fitted(clip: ClipStream, *, fps: float, height: int, width: int, fit: Fit = "crop") -> Iterator[np.ndarray]:
    """The frames (height, width, 3) that `fit_clip` would make of the whole clip; see there for the arguments."""
    frames = resampled(clip.frames, clip.fps, fps)
    while chunk := list(itertools.islice(frames, CHUNK)):
        made, _ = fit_clip(torch.from_numpy(np.stack(chunk)), fps, fps=fps, height=height, width=width, fit=fit)
        yield from made.numpy()


def resampled(frames: Iterable[tuple[float, np.ndarray]], own_fps: float, fps: float) -> Iterator[np.ndarray]:
    """The frames that a player would show at 0, 1/fps, 2/fps, ... seconds: `resample_frames` for frames that arrive.

    Where the rate varies, its mean stands for the usual distance of two frames, as the median is not known yet.

    Args:
        frames: (seconds, frame), ascending; times that fall back count as those before.
        own_fps: their mean rate.
        fps: frames per second to make.
    """
    require(np.isfinite(fps) and fps > 0, "fps", "must be finite and above 0", fps)
    slack = 0.5 * min(1 / own_fps, 1 / fps) + 1e-9
    now, latest, chosen, made = 0.0, None, 0, 0
    ready: deque[np.ndarray] = deque()
    for time, frame in frames:
        now = max(now, time)
        # The frame before this one is shown until this one is nearer.
        while latest is not None and chosen / fps + slack < now:
            ready.append(latest)
            chosen += 1
        latest = frame
        # The clip's length, rounded to whole frames, may leave out the last one chosen: it waits for one more.
        while ready and made < whole_frames(now + 1 / own_fps, fps):
            yield ready.popleft()
            made += 1
    # A still picture has no duration: it stays a single frame.
    count = whole_frames(now + 1 / own_fps, fps) if now else 1
    while latest is not None and made < count:
        yield ready.popleft() if ready else latest
        made += 1
