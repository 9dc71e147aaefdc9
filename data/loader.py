"""Batches of clips in a seeded order whose only state is {epoch, sample}, on any number of workers and ranks.

    loader = ClipLoader(ClipShards("shards"), batch_size=8, num_frames=17, seed=0, workers=2)
    loader.batch(step).frames_BTHW3                     # determined by (seed, step) alone, as training/loop.py needs
    for batch in loader: ...                            # the same batches, from the loaded state on

A sample of F frames has F // num_frames windows, which do not overlap. An epoch is a seeded permutation of all windows;
(seed, epoch, sample) determines by how much the windows of a sample are shifted, and whether they are mirrored.
Every rank reads its part of each batch, so a batch has the same clips for any number of ranks.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from ..core.errors import require
from .clip_shards import ClipShards

READ_AHEAD = 2  # batches that workers read before they are requested


@dataclass(frozen=True)
class Pick:
    """A window that the loader reads.

    Attributes:
        epoch: The index of the epoch.
        sample: The index of the sample in the shards.
        start: The first frame of the window in its sample.
        flipped: Whether the window is mirrored.
    """

    epoch: int
    sample: int
    start: int
    flipped: bool


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """A batch of windows.

    Attributes:
        frames_BTHW3: The frames, uint8 RGB.
        captions: The captions of each window's sample.
        picks: The origin of each window.
    """

    frames_BTHW3: torch.Tensor
    captions: list[tuple[str, ...]]
    picks: list[Pick]


class ClipLoader:
    """A loader of batches of windows in a seeded order.

    Attributes:
        windows: The number of windows in an epoch.
        left_out: The number of samples that are shorter than a window, and so are never read.
    """

    def __init__(
        self,
        shards: ClipShards,
        batch_size: int,
        num_frames: int,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        flip: bool = False,
        stills: bool = False,
    ) -> None:
        """Count the windows; no frames are read yet.

        Args:
            shards: The clips to read.
            batch_size: The number of windows per step over all ranks together, a multiple of `world_size`.
            num_frames: The number of frames of a window.
            seed: The seed of the order, the shifts and the mirroring.
            rank: The index of this process, from 0.
            world_size: The number of processes that share each batch.
            workers: The number of threads that read ahead (decoding releases the interpreter lock); with 0, batches
                are read when they are requested.
            flip: Mirror half of the windows; leave it off where captions distinguish left from right.
            stills: Use each still image as a window that repeats it; otherwise they are left out.

        Raises:
            ReelmError: An argument is out of its range, or no sample has `num_frames` frames.
        """
        require(world_size >= 1, "world_size", "must be at least 1", world_size)
        require(0 <= rank < world_size, "rank", f"must be from 0 to {world_size - 1}", rank)
        divisible = batch_size >= 1 and batch_size % world_size == 0
        require(divisible, "batch_size", f"must be a multiple of the {world_size} ranks", batch_size)
        require(num_frames >= 1, "num_frames", "must be at least 1", num_frames)
        require(0 <= seed < 2**63, "seed", "must be from 0 to 2^63 - 1", seed)
        require(workers >= 0, "workers", "must be at least 0", workers)
        self.shards, self.batch_size, self.num_frames, self.seed = shards, batch_size, num_frames, seed
        self.flip, self._rank, self._world_size = flip, rank, world_size
        self._frames = np.array([sample.frames for sample in shards.samples], np.int64)
        # A last sample of one frame, of a clip that was cut into several, is no still.
        is_still = [stills and (sample.frames, sample.first_frame) == (1, 0) for sample in shards.samples]
        self._stills = np.array(is_still, bool)
        counts = np.where(self._stills, 1, self._frames // num_frames)
        # The number of windows up to and including each sample, by which `_pick` finds the sample of a window.
        self._ends = np.cumsum(counts)
        self.windows = int(self._ends[-1]) if len(self._ends) else 0
        self.left_out = int((counts == 0).sum())
        longest = int(self._frames.max(initial=0))
        require(self.windows > 0, "num_frames", f"must be at most {longest}, the longest sample's frames", num_frames)
        self._position = 0
        self._orders: dict[int, np.ndarray] = {}
        self._pool = ThreadPoolExecutor(workers, "clips") if workers else None
        self._futures: dict[int, list[Future[torch.Tensor]]] = {}

    def batch(self, step: int) -> ClipBatch:
        """Return this rank's part of the batch of `step`; it does not depend on what was read before."""
        require(step >= 0, "step", "must be at least 0", step)
        return self._read_batch(step * self.batch_size)

    def sources(self, step: int) -> list[tuple[str, int]]:
        """Return the clip and the frame at which each window of the batch of `step` begins, for all ranks."""
        picks = [self._pick(step * self.batch_size + index) for index in range(self.batch_size)]
        samples = [self.shards.samples[pick.sample] for pick in picks]
        return [(each.source, each.first_frame + pick.start) for each, pick in zip(samples, picks, strict=True)]

    def __iter__(self) -> Iterator[ClipBatch]:
        """Yield this rank's part of the batches without end, from the loaded state on."""
        while True:
            batch = self._read_batch(self._position)
            # Advance before yielding: the state after a batch points to the next one.
            self._position += self.batch_size
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the position of the iteration: the epoch, and how many of its windows all ranks together have read."""
        return {"epoch": self._position // self.windows, "sample": self._position % self.windows}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue the iteration from the result of `state_dict`, on any number of ranks and workers.

        Raises:
            ReelmError: The state does not fit an epoch of this length.
        """
        valid = set(state) == {"epoch", "sample"} and all(type(value) is int for value in state.values())
        require(valid, "state", "must have integers epoch and sample", state)
        require(state["epoch"] >= 0, "state", "must have an epoch of at least 0", state)
        require(0 <= state["sample"] < self.windows, "state", f"must have a sample below {self.windows}", state)
        self._position = state["epoch"] * self.windows + state["sample"]

    def close(self) -> None:
        """Stop the workers; `batch` must not be called afterwards."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def picks(self, position: int) -> list[Pick]:
        """Return this rank's windows of the batch whose first window is number `position`, counted over all epochs."""
        return [
            self._pick(index) for index in range(position + self._rank, position + self.batch_size, self._world_size)
        ]

    def _pick(self, position: int) -> Pick:
        epoch, index = divmod(position, self.windows)
        if epoch not in self._orders:
            # A batch may span two epochs, so the orders of the neighbouring epochs are kept.
            self._orders = {old: order for old, order in self._orders.items() if abs(old - epoch) == 1}
            self._orders[epoch] = np.argsort(hash_bits(self.seed, epoch, 0, np.arange(self.windows)), kind="stable")
        window = int(self._orders[epoch][index])
        sample = int(np.searchsorted(self._ends, window, side="right"))
        flipped = self.flip and bool(hash_bits(self.seed, epoch, 2, sample)[0] >> np.uint64(63))
        if self._stills[sample]:
            return Pick(epoch, sample, 0, flipped)
        frames = int(self._frames[sample])
        window_in_sample = window - (int(self._ends[sample - 1]) if sample else 0)
        shift = int(hash_bits(self.seed, epoch, 1, sample)[0] % np.uint64(frames % self.num_frames + 1))
        return Pick(epoch, sample, shift + window_in_sample * self.num_frames, flipped)

    def _read_batch(self, position: int) -> ClipBatch:
        picks = self.picks(position)
        if self._pool is None:
            frames = [self._read(pick) for pick in picks]
        else:
            starts = [position + ahead * self.batch_size for ahead in range(1 + READ_AHEAD)]
            for old in self._futures.keys() - set(starts):
                for future in self._futures.pop(old):
                    future.cancel()
            for start in starts:
                if start not in self._futures:
                    self._futures[start] = [self._pool.submit(self._read, pick) for pick in self.picks(start)]
            frames = [future.result() for future in self._futures.pop(position)]
        return ClipBatch(torch.stack(frames), [self.shards.samples[pick.sample].captions for pick in picks], picks)

    def _read(self, pick: Pick) -> torch.Tensor:
        count = 1 if self._stills[pick.sample] else self.num_frames
        frames_THW3 = torch.from_numpy(self.shards.read(pick.sample, pick.start, count))
        frames_THW3 = frames_THW3.expand(self.num_frames, -1, -1, -1)
        return frames_THW3.flip(2) if pick.flipped else frames_THW3


def hash_bits(*parts: int | np.ndarray) -> np.ndarray:
    """Return a 64-bit hash of integers, uint64: the finaliser of SplitMix64 after each (Steele et al. 2014).

    It does not use a library's random generator: a new version might draw other numbers, and a run could not resume.
    """
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = (state ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state
