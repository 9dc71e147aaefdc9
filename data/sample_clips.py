"""Clips to look at or to measure with, from prepared shards or from a folder of any clips.

for name, frames_THWC in sample_clips(Path("my_clips"), split="held-out", max_frames=65): ...
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..core.errors import ReelmError, require
from ..tokenizer.clip_stream import stream_clip
from .clip_shards import ClipShards, is_prepared
from .sources import find_sources


@dataclass
class SampleClips:
    """The clips one by one: (name, (T, H, W, 3) uint8).

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
        if self.split != "all":
            shards = ClipShards(self.folder, self.split)
            for number, sample in enumerate(shards.samples):
                frames = shards.read(number, 0, min(sample.frames, self.max_frames))
                yield f"{sample.source} from {sample.first_frame}", torch.from_numpy(frames)
            return
        for source in find_sources(self.folder)[0]:
            try:
                read = [frame for _, frame in itertools.islice(stream_clip(source.path).frames, self.max_frames)]
            except ReelmError as error:
                self.skipped.append((source.name, str(error)))
                continue
            yield source.name, torch.stack([torch.from_numpy(frame) for frame in read])


def sample_clips(folder: Path, *, split: str = "held-out", max_frames: int = 65) -> SampleClips:
    """The clips of a folder.

    Args:
        folder: prepared shards, or any clips, at their own size.
        split: train or held-out, of prepared shards.
        max_frames: of each clip.

    Raises:
        ReelmError: there is no such folder.
    """
    require(folder.is_dir(), "folder", "must be an existing folder", str(folder))
    return SampleClips(folder, split if is_prepared(folder) else "all", max_frames)
