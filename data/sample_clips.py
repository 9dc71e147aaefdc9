"""Clips to look at or to measure with, from prepared shards or from a folder of any clips.

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
from ..media.streaming import ClipStream, stream_clip, stream_fitted
from .clip_shards import ClipShards, is_prepared
from .shard_files import SPLITS
from .sources import Source, find_sources, read_captions

Clip = TypeVar("Clip")
MOST_REASONS = 3  # of clips that could not be read, when none could


@dataclass
class SampleClips:
    """The clips one by one: (name, (T, H, W, 3) uint8), as they are.

    Attributes:
        folder: where they lie.
        split: of prepared shards; "all" of a folder of clips, which has none.
        max_frames: of each, from its beginning.
        skipped: (name, reason) of the files that could not be read, as they are met.
    """

    folder: Path
    split: str
    max_frames: int
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self._some(self._whole())

    def _whole(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The clips as they are."""
        if self.split != "all":
            shards = ClipShards(self.folder, self.split)
            for number, sample in enumerate(shards.samples):
                frames = shards.read(number, 0, min(sample.frames, self.max_frames))
                yield f"{sample.source} from {sample.first_frame}", torch.from_numpy(frames)
            return
        for source in self._sources():
            try:
                read = [frame for _, frame in itertools.islice(stream_clip(source.path).frames, self.max_frames)]
            except ReelmError as error:
                self.skipped.append((source.name, str(error)))
                continue
            yield source.name, torch.stack([torch.from_numpy(frame) for frame in read])

    def fitted(
        self, *, fps: float, height: int, width: int, fit: Fit = "crop"
    ) -> Iterator[tuple[str, np.ndarray, str]]:
        """(name, (T, height, width, 3) uint8, caption or "") at this rate; `max_frames` are counted at it.

        Args:
            fps: frames per second to make.
            height: rows to make.
            width: columns to make.
            fit: as for `fit_clip`.

        Raises:
            ReelmError: there are clips, and none could be read.
        """
        return self._some(self._fitted(fps, height, width, fit))

    def _fitted(self, fps: float, height: int, width: int, fit: Fit) -> Iterator[tuple[str, np.ndarray, str]]:
        """The clips that can be read, made to fit."""
        for name, stream, caption in self._streams(self.max_frames / fps):
            try:
                frames = stream_fitted(stream, fps=fps, height=height, width=width, fit=fit)
                made = np.stack(list(itertools.islice(frames, self.max_frames)))
            except ReelmError as error:
                self.skipped.append((name, str(error)))
                continue
            yield name, made, caption

    def _some(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        """These, or if there are none, a refusal that says why."""
        found = False
        for clip in clips:
            found = True
            yield clip
        if not found and self.skipped:
            reasons = "; ".join(f"{name} ({reason})" for name, reason in self.skipped[:MOST_REASONS])
            more = len(self.skipped) - MOST_REASONS
            rest = f"; and {more} more" if more > 0 else ""
            raise ReelmError(f"clips: must be at least one that can be read, got none: {reasons}{rest}")

    def _sources(self) -> list[Source]:
        """The files of a folder that was not prepared, with a word on that: a split was asked for."""
        note(f"{self.folder} was not prepared and has no split: whole clips are measured")
        return find_sources(self.folder)[0]

    def _streams(self, seconds: float) -> Iterator[tuple[str, ClipStream, str]]:
        """The first `seconds` at least, of their own size and rate, with a caption."""
        if self.split != "all":
            shards = ClipShards(self.folder, self.split)
            for number, sample in enumerate(shards.samples):
                frames = shards.read(number, 0, min(sample.frames, math.ceil(seconds * sample.fps) + 1))
                timed = ((at / sample.fps, frame) for at, frame in enumerate(frames))
                caption = (*sample.captions, "")[0]
                yield f"{sample.source} from {sample.first_frame}", ClipStream(sample.fps, timed), caption
            return
        for source in self._sources():
            try:
                stream, captions = stream_clip(source.path), read_captions(source)
            except ReelmError as error:
                self.skipped.append((source.name, str(error)))
                continue
            yield source.name, stream, (*captions, "")[0]


def sample_clips(folder: Path, *, split: str = "held-out", max_frames: int = 65) -> SampleClips:
    """The clips of a folder.

    Args:
        folder: prepared shards, or any clips, at their own size.
        split: train or held-out, of prepared shards; other folders have none, and what is taken is noted.
        max_frames: of each clip.

    Raises:
        ReelmError: there is no such folder, or no such split.
    """
    require(split in SPLITS, "split", f"must be one of {SPLITS}", split)
    require(folder.is_dir(), "folder", "must be an existing folder", str(folder))
    return SampleClips(folder, split if is_prepared(folder) else "all", max_frames)
