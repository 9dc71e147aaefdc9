"""Batches of clips whose order needs no state but {epoch, sample}: the same on any number of workers and ranks.

    loader = ClipLoader(ClipShards("shards"), batch_size=8, num_frames=17, seed=0, workers=2)
    loader.batch(step).frames_BTHW3                     # follows from (seed, step) alone: what training/loop.py asks
    for batch in loader: ...                            # the same batches, from where load_state_dict left it

A sample of F frames has F // num_frames windows, which do not overlap. An epoch is a seeded permutation of all windows;
by how much a sample's windows are shifted, and whether they are mirrored, follows from (seed, epoch, sample).
Every rank takes its part of each batch, so that a batch is the same clips whatever the number of ranks.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from ..core.errors import require
from .clip_shards import ClipShards

AHEAD = 2  # batches that workers read before they are asked for


@dataclass(frozen=True)
class Pick:
    """A window: `epoch`, the sample's number in the shards, its first frame there, and whether it is mirrored."""

    epoch: int
    sample: int
    start: int
    flipped: bool


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """Windows in memory.

    Attributes:
        frames_BTHW3: uint8 RGB.
        captions: of each clip.
        picks: where each comes from.
    """

    frames_BTHW3: torch.Tensor
    captions: list[tuple[str, ...]]
    picks: list[Pick]


class ClipLoader:
    """Batches of windows in a seeded order.

    Attributes:
        windows: how many an epoch has.
        left_out: samples that are shorter than a window, and so are never read.
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
    ) -> None:
        """Plan the epochs; nothing is read yet.

        Args:
            shards: what to read.
            batch_size: windows of a step over all ranks together, a multiple of `world_size`.
            num_frames: frames of a window.
            seed: of the order, the shifts and the mirroring.
            rank: this process's number, from 0.
            world_size: how many processes share each batch.
            workers: threads that read ahead (decoding leaves the interpreter free); 0 reads when asked.
            flip: mirror half of the windows; leave it off where captions tell left from right.

        Raises:
            ReelmError: an argument is out of its range, or no sample has `num_frames` frames.
        """
        require(world_size >= 1, "world_size", "must be at least 1", world_size)
        require(0 <= rank < world_size, "rank", f"must be from 0 to {world_size - 1}", rank)
        whole = batch_size >= 1 and batch_size % world_size == 0
        require(whole, "batch_size", f"must be a multiple of the {world_size} ranks", batch_size)
        require(num_frames >= 1, "num_frames", "must be at least 1", num_frames)
        require(0 <= seed < 2**63, "seed", "must be from 0 to 2^63 - 1", seed)
        require(workers >= 0, "workers", "must be at least 0", workers)
        self.shards, self.batch_size, self.num_frames, self.seed = shards, batch_size, num_frames, seed
        self.flip, self._rank, self._world_size = flip, rank, world_size
        self._frames = np.array([sample.frames for sample in shards.samples], np.int64)
        # Windows up to and with each sample: where a window's number falls tells its sample.
        self._ends = np.cumsum(self._frames // num_frames)
        self.windows = int(self._ends[-1]) if len(self._ends) else 0
        self.left_out = int((self._frames < num_frames).sum())
        longest = int(self._frames.max(initial=0))
        require(self.windows > 0, "num_frames", f"must be at most {longest}, the longest sample's frames", num_frames)
        self._position = 0
        self._orders: dict[int, np.ndarray] = {}
        self._pool = ThreadPoolExecutor(workers, "clips") if workers else None
        self._ahead: dict[int, list[Future[torch.Tensor]]] = {}

    def batch(self, step: int) -> ClipBatch:
        """This rank's part of the batch of `step`, whatever was read before."""
        require(step >= 0, "step", "must be at least 0", step)
        return self._read_batch(step * self.batch_size)

    def __iter__(self) -> Iterator[ClipBatch]:
        """Batches for ever, from the state on."""
        while True:
            batch = self._read_batch(self._position)
            # A batch counts when it is handed over: state_dict tells the one after it.
            self._position += self.batch_size
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where the iteration goes on: an epoch, and how many windows of it are done, over all ranks."""
        return {"epoch": self._position // self.windows, "sample": self._position % self.windows}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken, on any number of ranks and workers.

        Raises:
            ReelmError: it is no state of an epoch of this length.
        """
        known = set(state) == {"epoch", "sample"} and all(type(value) is int for value in state.values())
        require(known, "state", "must have integers epoch and sample", state)
        require(state["epoch"] >= 0, "state", "must have an epoch of at least 0", state)
        require(0 <= state["sample"] < self.windows, "state", f"must have a sample below {self.windows}", state)
        self._position = state["epoch"] * self.windows + state["sample"]

    def close(self) -> None:
        """End the workers; `batch` may not be called again."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def picks(self, position: int) -> list[Pick]:
        """This rank's windows of the batch that begins at `position`, counted over all epochs."""
        return [
            self._pick(place) for place in range(position + self._rank, position + self.batch_size, self._world_size)
        ]

    def _pick(self, position: int) -> Pick:
        epoch, place = divmod(position, self.windows)
        if epoch not in self._orders:
            # A batch may reach into the next epoch, no further back than the last one.
            self._orders = {old: order for old, order in self._orders.items() if abs(old - epoch) == 1}
            self._orders[epoch] = np.argsort(mixed_bits(self.seed, epoch, 0, np.arange(self.windows)), kind="stable")
        window = int(self._orders[epoch][place])
        sample = int(np.searchsorted(self._ends, window, side="right"))
        frames = int(self._frames[sample])
        inside = window - (int(self._ends[sample - 1]) if sample else 0)
        shift = int(mixed_bits(self.seed, epoch, 1, sample)[0] % np.uint64(frames % self.num_frames + 1))
        flipped = self.flip and bool(mixed_bits(self.seed, epoch, 2, sample)[0] >> np.uint64(63))
        return Pick(epoch, sample, shift + inside * self.num_frames, flipped)

    def _read_batch(self, position: int) -> ClipBatch:
        picks = self.picks(position)
        if self._pool is None:
            frames = [self._read(pick) for pick in picks]
        else:
            wanted = [position + ahead * self.batch_size for ahead in range(1 + AHEAD)]
            for old in self._ahead.keys() - set(wanted):
                for future in self._ahead.pop(old):
                    future.cancel()
            for place in wanted:
                if place not in self._ahead:
                    self._ahead[place] = [self._pool.submit(self._read, pick) for pick in self.picks(place)]
            frames = [future.result() for future in self._ahead.pop(position)]
        return ClipBatch(torch.stack(frames), [self.shards.samples[pick.sample].captions for pick in picks], picks)

    def _read(self, pick: Pick) -> torch.Tensor:
        frames_THW3 = torch.from_numpy(self.shards.read(pick.sample, pick.start, self.num_frames))
        return frames_THW3.flip(2) if pick.flipped else frames_THW3


def mixed_bits(*parts: int | np.ndarray) -> np.ndarray:
    """Well mixed 64 bits of some numbers, by the finaliser of SplitMix64 after each (Steele et al. 2014).

    Arithmetic of our own, as a library's generator may change with its version, and a run would not resume.
    """
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = (state ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state
