"""Recode one clip to samples: read frame by frame, resized, and encoded once with a keyframe every 12 frames.

samples, paths, notes = recode(source, PrepareConfig(height=128, width=128), Path("parts"))

However long the clip is, memory holds no more than the last frames read, which may turn out to be its held-out end.
"""

import itertools
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

import numpy as np

from ..core.errors import ClipError, require
from ..core.plain_values import convert_fields
from ..media.clip import ClipLimits
from ..media.fitting import Fit
from ..media.frame_encoder import write_frames
from ..media.picture_folder import FOLDER_FPS
from ..media.streaming import TimedFrame, stream_clip, stream_fitted
from .control_files import read_controls
from .resampled_controls import resampled_controls
from .shard_files import Sample
from .sources import Source, read_captions

# A read decodes from the last keyframe on: with one every 12 frames that costs 5.5 frames on average, and few bytes.
KEYFRAMES = 12
# Generous, because a video is read frame by frame; only images are read whole.
LIMITS = ClipLimits(max_bytes=2**30, max_seconds=24 * 3600.0)
MIN_FPS = 0.01


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Options of the samples that are made of clips.

    Attributes:
        height: The height of a sample in pixels, even.
        width: The width of a sample in pixels, even.
        fit: How a clip gets this size: crop cuts out the centre, pad adds black bars, stretch distorts.
        fps: The frames per second of all samples; the median of the clips' own rates unless given.
        max_frames: The most frames of a sample; a longer clip is cut into several samples.
        held_out_seconds: The seconds at the end of each clip, but at most half of it, that are never trained on.
        clips_per_shard: The number of clips that share a shard.
    """

    height: int = 128
    width: int = 128
    fit: Fit = "crop"
    fps: float | None = None
    max_frames: int = 240
    held_out_seconds: float = 1.0
    clips_per_shard: int = 64

    def __post_init__(self) -> None:
        convert_fields(self)
        for name in ("height", "width"):
            value = getattr(self, name)
            # H.264 in 4:2:0 has no odd sizes.
            require(2 <= value <= 4096 and value % 2 == 0, name, "must be even and from 2 to 4096", value)
        require(self.fps is None or MIN_FPS <= self.fps <= 1000, "fps", f"must be from {MIN_FPS} to 1000", self.fps)
        require(self.max_frames >= 1, "max_frames", "must be at least 1", self.max_frames)
        # These frames stay in memory until the end of the clip is reached.
        seconds = self.held_out_seconds
        require(0 <= seconds <= 60, "held_out_seconds", "must be from 0 to 60", seconds)
        require(self.clips_per_shard >= 1, "clips_per_shard", "must be at least 1", self.clips_per_shard)


def recode(source: Source, config: PrepareConfig, folder: Path) -> tuple[list[Sample], list[Path], tuple[str, ...]]:
    """Write the samples of a clip as mp4 files into an empty folder.

    Returns:
        The samples, without their positions in a tar; their files; and notes of what reading did to the clip or could
        not read of it.

    Raises:
        ClipError: The clip, its captions or its controls cannot be used.
        ReelmError: A file could not be written.
    """
    captions, recording = read_captions(source), read_controls(source)
    clip = stream_clip(source.path, limits=LIMITS, folder_fps=config.fps or FOLDER_FPS)
    fps = config.fps or clip.fps
    if fps < MIN_FPS:
        raise ClipError(f"clip: must have at least {MIN_FPS} frames per second, got {fps:g} in {source.name!r}")
    spans = array("d")
    if recording is not None:
        clip = replace(clip, frames=noted(clip.frames, spans))
    frames = stream_fitted(clip, fps=fps, height=config.height, width=config.width, fit=config.fit)
    samples: list[Sample] = []
    paths: list[Path] = []
    first = 0
    assigned = _assign_frames(frames, round(config.held_out_seconds * fps), config.max_frames)
    for (split, _), group in itertools.groupby(assigned, key=itemgetter(0)):
        paths.append(folder / f"{len(samples):06d}.mp4")
        count = write_frames(paths[-1], (frame for _, frame in group), fps, keyframes=KEYFRAMES)
        samples.append(Sample(source.name, split, first, count, fps, config.height, config.width, captions))
        first += count
    if recording is not None:
        spans_T2 = np.array(spans).reshape(-1, 2)
        track = resampled_controls(recording.checked(spans_T2, fps=clip.fps), spans_T2, fps=fps, count=first)
        samples = [
            replace(sample, controls=track[sample.first_frame : sample.first_frame + sample.frames])
            for sample in samples
        ]
    # What is missing is known only at the end.
    return samples, paths, tuple(clip.notes)


def noted(frames: Iterator[TimedFrame], spans: "array[float]") -> Iterator[TimedFrame]:
    """Yield the frames, and add the seconds from which and until which each is shown to `spans`."""
    for start, stop, frame in frames:
        spans.extend((start, stop))
        yield start, stop, frame


def _assign_frames(
    frames: Iterator[np.ndarray], held_out: int, max_frames: int
) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
    """Yield each frame with its split and the index of its sample in that split.

    The length of the clip is known only at its end, so the last `held_out` frames read wait for their split.
    """
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
    for index, frame in enumerate(waiting):
        yield ("held-out", index // max_frames), frame
