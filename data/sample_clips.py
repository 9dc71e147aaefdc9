"""Read clips for evaluation, from prepared shards or from a folder of any clips.

clips = sample_clips(Path("my_clips"), split="held-out", max_frames=65)
for name, frames_THW3 in clips: ...
for name, frames_THW3, caption in clips.fitted(fps=8, height=64, width=64): ...
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from ..core.errors import ReelmError, require
from ..core.progress import note
from ..media.fitting import Fit
from ..media.streaming import FrameStream, resampled, stream_clip, stream_fitted
from .clip_shards import ClipShards, is_prepared
from .recode import MIN_FPS
from .shard_files import SPLITS
from .sources import Source, find_sources, read_captions

Clip = TypeVar("Clip")
MAX_REASONS = 3  # the most reasons that the error lists when no clip could be read


@dataclass
class SampleClips:
    """An iterable over clips at their own size, and their own rate unless `fps` is given: (name, (T, H, W, 3) uint8).

    Its length counts the files that may turn out to be unreadable, too.

    Attributes:
        folder: The folder of the clips.
        split: The split of prepared shards; "all" for a folder of clips, which has no splits.
        max_frames: The most frames of a clip; later ones are left out.
        fps: The frames per second at which clips are taken; their own unless given.
        skipped: The files that could not be read so far: (name, reason).
    """

    folder: Path
    split: str
    max_frames: int
    fps: float | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        if self.split != "all":
            return len(ClipShards(self.folder, self.split))
        return len(find_sources(self.folder).sources)

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self._require_any(self._unchanged() if self.fps is None else self._at_rate(self.fps))

    def _at_rate(self, fps: float) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the clips that can be read, at their own size and another rate."""
        for name, stream, _ in self._streams(self.max_frames / fps):
            try:
                frames = list(itertools.islice(resampled(stream.frames, fps), self.max_frames))
            except ReelmError as error:
                self.skipped.append((name, str(error)))
                continue
            yield name, torch.from_numpy(np.stack(frames))

    def _unchanged(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the clips that can be read, at their own size and rate."""
        if self.split != "all":
            shards = ClipShards(self.folder, self.split)
            for number, sample in enumerate(shards.samples):
                frames = shards.read(number, 0, min(sample.frames, self.max_frames))
                yield f"{sample.source} from {sample.first_frame}", torch.from_numpy(frames)
            return
        for source in self._sources():
            try:
                frames_read = [
                    frame for _, _, frame in itertools.islice(stream_clip(source.path).frames, self.max_frames)
                ]
            except ReelmError as error:
                self.skipped.append((source.name, str(error)))
                continue
            yield source.name, torch.stack([torch.from_numpy(frame) for frame in frames_read])

    def fitted(
        self, *, fps: float, height: int, width: int, fit: Fit = "crop"
    ) -> Iterator[tuple[str, np.ndarray, str]]:
        """Return an iterator over the clips at another size and rate: (name, (T, height, width, 3) uint8, caption).

        The caption is "" for a clip without one. `max_frames` are counted at the new rate.

        Args:
            fps: The frames per second of the result.
            height: The height of the result in pixels.
            width: The width of the result in pixels.
            fit: How a clip gets this size, as for `fit_clip`.

        Raises:
            ReelmError: None of the clips could be read.
        """
        return self._require_any(self._fitted(fps, height, width, fit))

    def _fitted(self, fps: float, height: int, width: int, fit: Fit) -> Iterator[tuple[str, np.ndarray, str]]:
        """Yield the clips that can be read, at this size and rate."""
        for name, stream, caption in self._streams(self.max_frames / fps):
            try:
                frames = stream_fitted(stream, fps=fps, height=height, width=width, fit=fit)
                fitted = np.stack(list(itertools.islice(frames, self.max_frames)))
            except ReelmError as error:
                self.skipped.append((name, str(error)))
                continue
            yield name, fitted, caption

    def _require_any(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        """Yield the clips; if there are none because none could be read, raise an error that gives the reasons."""
        found = False
        for clip in clips:
            found = True
            yield clip
        if not found and self.skipped:
            reasons = "; ".join(f"{name} ({reason})" for name, reason in self.skipped[:MAX_REASONS])
            more = len(self.skipped) - MAX_REASONS
            rest = f"; and {more} more" if more > 0 else ""
            raise ReelmError(f"clips: must be at least one that can be read, got none: {reasons}{rest}")

    def _sources(self) -> list[Source]:
        """Return the files of a folder that was not prepared; note on stderr that it has no split."""
        note(f"{self.folder} was not prepared and has no split: whole clips are measured")
        return find_sources(self.folder).sources

    def _streams(self, seconds: float) -> Iterator[tuple[str, FrameStream, str]]:
        """Yield (name, stream, caption) of each clip: at least its first `seconds`, at its own size and rate."""
        if self.split != "all":
            shards = ClipShards(self.folder, self.split)
            for number, sample in enumerate(shards.samples):
                frames = shards.read(number, 0, min(sample.frames, math.ceil(seconds * sample.fps) + 1))
                timed = ((n / sample.fps, (n + 1) / sample.fps, frame) for n, frame in enumerate(frames))
                caption = (*sample.captions, "")[0]
                yield f"{sample.source} from {sample.first_frame}", FrameStream(sample.fps, timed), caption
            return
        for source in self._sources():
            try:
                stream, captions = stream_clip(source.path), read_captions(source)
            except ReelmError as error:
                self.skipped.append((source.name, str(error)))
                continue
            yield source.name, stream, (*captions, "")[0]


def sample_clips(
    folder: Path, *, split: str = "held-out", max_frames: int = 65, fps: float | None = None
) -> SampleClips:
    """Return the clips of a folder.

    Args:
        folder: A folder of prepared shards, or of any clips.
        split: The split of prepared shards, train or held-out; other folders have no splits, and all their clips are
            used, with a note on stderr.
        max_frames: The most frames of a clip.
        fps: The frames per second at which clips are taken; their own unless given.

    Raises:
        ReelmError: There is no such folder, or no such split, or `fps` is out of its range.
    """
    require(fps is None or MIN_FPS <= fps <= 1000, "fps", f"must be from {MIN_FPS} to 1000", fps)
    require(split in SPLITS, "split", f"must be one of {SPLITS}", split)
    require(folder.is_dir(), "folder", "must be an existing folder", str(folder))
    return SampleClips(folder, split if is_prepared(folder) else "all", max_frames, fps)
