"""Prepared clips, read by sample and frame.

    shards = ClipShards("shards", split="train")
    len(shards), shards.samples[7].captions, shards.height
    frames_THW3 = shards.read(7, start=30, count=17)        # uint8

A read decodes from the keyframe before `start`, straight from the tar. Nothing stays open between reads, so that
threads, forks and other processes may share one.
"""

from pathlib import Path

import numpy as np

from ..core.errors import ClipError, require
from ..media.frame_decoder import read_window
from .shard_files import SPLITS, Sample, read_index, read_json, read_sample


def is_prepared(folder: Path) -> bool:
    """Whether this is a folder that `reelm prepare` made."""
    return (folder / "shards.json").is_file()


def read_frames(folder: Path, number: int, sample: Sample, start: int, count: int) -> np.ndarray:
    """Frames [start, start + count) of a sample of shard `number`: (count, H, W, 3) uint8.

    Raises:
        ClipError: the shard is damaged.
    """
    data = read_sample(folder, number, sample)
    try:
        frames = read_window(data, start, count)
    except Exception as error:  # decoders raise anything
        raise ClipError(f"data: shard {number} must decode, got {error} in {sample.source!r}") from error
    wanted = (count, sample.height, sample.width, 3)
    if frames.shape != wanted:
        raise ClipError(f"data: shard {number} must have frames {wanted}, got {frames.shape} in {sample.source!r}")
    return frames


class ClipShards:
    """The samples of one split, over all shards of a folder that `reelm prepare` made.

    Attributes:
        folder: of the shards.
        split: train or held-out.
        samples: what is known of each, in an order that depends on the clips' names alone.
        numbers: of the shards in which they lie.
        height: of every sample in pixels.
        width: of every sample in pixels.
    """

    def __init__(self, folder: str | Path, split: str = "train") -> None:
        """Read the indexes.

        Args:
            folder: of the shards.
            split: train, or held-out: the ends that were put aside.

        Raises:
            ClipError: it is no such folder, a shard is damaged, or one is missing (is `prepare` still at work?).
        """
        require(split in SPLITS, "split", f"must be one of {SPLITS}", split)
        self.folder, self.split = Path(folder), split
        values = read_json(self.folder / "shards.json")
        try:
            count = int(values["shards"])
            self.height, self.width = int(values["config"]["height"]), int(values["config"]["width"])
        except (KeyError, TypeError, ValueError) as error:
            raise ClipError(f"data: shards.json must be a file that reelm prepare wrote, got {error!r}") from error
        self.samples: list[Sample] = []
        self.numbers: list[int] = []
        for number in range(count):
            samples = [sample for sample in read_index(self.folder, number).samples if sample.split == split]
            self.samples += samples
            self.numbers += [number] * len(samples)
        for sample in self.samples:
            if (sample.height, sample.width) != (self.height, self.width):
                got = f"{sample.height}x{sample.width} in {sample.source!r}"
                raise ClipError(f"data: samples must be {self.height}x{self.width}, got {got}")

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, sample: int, start: int, count: int) -> np.ndarray:
        """Frames [start, start + count) of a sample, (count, H, W, 3) uint8.

        Raises:
            ReelmError: there is no such sample, or no such frame in it.
            ClipError: the shard is damaged.
        """
        require(0 <= sample < len(self), "sample", f"must be from 0 to {len(self) - 1}", sample)
        told = self.samples[sample]
        require(count >= 1, "count", "must be at least 1", count)
        require(0 <= start <= told.frames - count, "start", f"must be from 0 to {told.frames - count}", start)
        return read_frames(self.folder, self.numbers[sample], told, start, count)
