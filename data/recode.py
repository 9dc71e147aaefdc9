"""One clip to samples: read by iteration, made to fit, encoded once with a keyframe every 12 frames.

samples, paths = recode(source, PrepareConfig(height=128, width=128), Path("parts"))

Memory holds the frames that may still turn out to be held out, and no more, however long the clip is.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np

from ..core.errors import ClipError, require
from ..media.clip import ClipLimits
from ..media.fitting import Fit
from ..media.streaming import stream_clip, stream_fitted
from ..media.writer import write_frames
from .shard_files import Sample
from .sources import Source, read_captions

# A read decodes from the keyframe before it: 12 apart cost 5.5 frames on average, and few bytes.
KEYFRAMES = 12
# Videos are read by iteration, images whole.
LIMITS = ClipLimits(max_bytes=2**30, max_seconds=24 * 3600.0)
MIN_FPS = 0.01


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What samples are made of clips.

    Attributes:
        height: of a sample in pixels, even.
        width: of a sample in pixels, even.
        fit: crop fills the size and cuts the centre out, pad shows all between black bars, stretch distorts.
        fps: frames per second of all samples; each clip's own unless given.
        max_frames: a longer clip is cut into samples of so many frames.
        held_out_seconds: so much of each clip's end, but at most half of it, is put aside and never trained on.
        clips_per_shard: files that share a shard.
    """

    height: int = 128
    width: int = 128
    fit: Fit = "crop"
    fps: float | None = None
    max_frames: int = 240
    held_out_seconds: float = 1.0
    clips_per_shard: int = 64

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            # H.264 in 4:2:0 has no odd sizes.
            require(2 <= value <= 4096 and value % 2 == 0, name, "must be even and from 2 to 4096", value)
        require(self.fps is None or MIN_FPS <= self.fps <= 1000, "fps", f"must be from {MIN_FPS} to 1000", self.fps)
        require(self.max_frames >= 1, "max_frames", "must be at least 1", self.max_frames)
        # They wait in memory until the clip's end is known.
        seconds = self.held_out_seconds
        require(0 <= seconds <= 60, "held_out_seconds", "must be from 0 to 60", seconds)
        require(self.clips_per_shard >= 1, "clips_per_shard", "must be at least 1", self.clips_per_shard)


def recode(source: Source, config: PrepareConfig, folder: Path) -> tuple[list[Sample], list[Path]]:
    """Write the samples of a clip as mp4s into an empty folder.

    Returns:
        The samples, without their places in a tar, and their files.

    Raises:
        ClipError: the clip or its captions cannot be used.
        ReelmError: the disk refused.
    """
    captions = read_captions(source)
    clip = stream_clip(source.path, limits=LIMITS)
    fps = config.fps or clip.fps
    if fps < MIN_FPS:
        raise ClipError(f"clip: must have at least {MIN_FPS} frames per second, got {fps:g} in {source.name!r}")
    frames = stream_fitted(clip, fps=fps, height=config.height, width=config.width, fit=config.fit)
    samples: list[Sample] = []
    paths: list[Path] = []
    first = 0
    placed = _places(frames, round(config.held_out_seconds * fps), config.max_frames)
    for (split, _), group in itertools.groupby(placed, key=itemgetter(0)):
        paths.append(folder / f"{len(samples):06d}.mp4")
        count = write_frames(paths[-1], (frame for _, frame in group), fps, keyframes=KEYFRAMES)
        samples.append(Sample(source.name, split, first, count, fps, config.height, config.width, captions))
        first += count
    return samples, paths


def _places(
    frames: Iterator[np.ndarray], held_out: int, max_frames: int
) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
    """Each frame with its split and the number of its sample there; the end is known only when it has come."""
    waiting: deque[np.ndarray] = deque()
    trained = 0
    for frame in frames:
        waiting.append(frame)
        if len(waiting) > held_out:
            yield ("train", trained // max_frames), waiting.popleft()
            trained += 1
    held_out = min(held_out, (trained + len(waiting)) // 2)
    while len(waiting) > held_out:
        yield ("train", trained // max_frames), waiting.popleft()
        trained += 1
    for place, frame in enumerate(waiting):
        yield ("held-out", place // max_frames), frame
