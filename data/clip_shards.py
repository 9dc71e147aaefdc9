"""Random access to prepared clips by sample and frame.

    shards = ClipShards("shards", split="train")
    len(shards), shards.samples[7].captions, shards.height
    frames_THW3 = shards.read(7, start=30, count=17)        # uint8

A read decodes straight from the tar, from the last keyframe at or before `start`. No file stays open between reads, so
threads, forked processes and other processes can share one `ClipShards`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ..core.controls import Controller
from ..core.errors import ClipError, require
from ..core.files import as_path
from ..core.folders import kind_of
from ..media.frame_decoder import read_window
from .learnt_controller import learnt_controller
from .shard_files import SPLITS, Sample, read_index, read_json, read_sample


def is_prepared(folder: Path) -> bool:
    """Return whether `reelm prepare` made this folder."""
    return kind_of(folder) == "shards"


def read_frames(folder: Path, number: int, sample: Sample, start: int, count: int) -> np.ndarray:
    """Return frames [start, start + count) of a sample of shard `number`: (count, H, W, 3) uint8.

    Raises:
        ClipError: The shard is damaged.
    """
    data = read_sample(folder, number, sample)
    try:
        frames = read_window(data, start, count)
    except Exception as error:  # decoders raise exceptions of any type
        raise ClipError(f"data: shard {number} must decode, got {error} in {sample.source!r}") from error
    expected = (count, sample.height, sample.width, 3)
    if frames.shape != expected:
        raise ClipError(f"data: shard {number} must have frames {expected}, got {frames.shape} in {sample.source!r}")
    return frames


class ClipShards:
    """The samples of one split, over all shards of a folder that `reelm prepare` made.

    Attributes:
        folder: The folder of the shards.
        split: The name of the split: train or held-out.
        samples: The index entries of the samples, in an order that depends on the names of the clips alone.
        numbers: The number of the shard that holds each sample.
        height: The height of every sample in pixels.
        width: The width of every sample in pixels.
        fps: The frames per second of every sample; None where all clips are stills.
    """

    def __init__(self, folder: str | Path, split: str = "train") -> None:
        """Read the indexes of all shards.

        Args:
            folder: The folder of the shards.
            split: The name of the split: train, or held-out (the ends of the clips, which training does not see).

        Raises:
            ClipError: `reelm prepare` did not make the folder, a shard is damaged, or one is missing (`prepare` may
                still be running).
        """
        require(split in SPLITS, "split", f"must be one of {SPLITS}", split)
        self.folder, self.split = as_path(folder, "folder"), split
        values: Any = read_json(self.folder / "shards.json")
        try:
            count = int(values["shards"])
            self.height, self.width = int(values["config"]["height"]), int(values["config"]["width"])
            fps = values["config"]["fps"]
            self.fps = None if fps is None else float(fps)
        except (KeyError, TypeError, ValueError) as error:
            raise ClipError(f"data: shards.json must be a file that reelm prepare wrote, got {error!r}") from error
        self.samples: list[Sample] = []
        self.numbers: list[int] = []
        self._every: list[Sample] = []  # of all splits
        for number in range(count):
            every = read_index(self.folder, number).samples
            samples = [sample for sample in every if sample.split == split]
            self._every += every
            self.samples += samples
            self.numbers += [number] * len(samples)
        for sample in self.samples:
            if (sample.height, sample.width) != (self.height, self.width):
                size = f"{sample.height}x{sample.width} in {sample.source!r}"
                raise ClipError(f"data: samples must be {self.height}x{self.width}, got {size}")

    def __len__(self) -> int:
        return len(self.samples)

    def controller(self, pictures: int) -> Controller:
        """Return the keys and axes of the samples of all splits; it is false where nothing was recorded.

        Args:
            pictures: The pictures of a latent frame: the tokenizer's temporal compression.

        Raises:
            ReelmError: There are too many keys, or an axis has the name of a key.
        """
        return learnt_controller(self._every, pictures)

    def read(self, sample: int, start: int, count: int) -> np.ndarray:
        """Return frames [start, start + count) of the sample with the index `sample`: (count, H, W, 3) uint8.

        Raises:
            ReelmError: There is no such sample, or it has no such frames.
            ClipError: The shard is damaged.
        """
        require(0 <= sample < len(self), "sample", f"must be from 0 to {len(self) - 1}", sample)
        entry = self.samples[sample]
        require(count >= 1, "count", "must be at least 1", count)
        require(0 <= start <= entry.frames - count, "start", f"must be from 0 to {entry.frames - count}", start)
        return read_frames(self.folder, self.numbers[sample], entry, start, count)
