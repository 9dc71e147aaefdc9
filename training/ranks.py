"""The processes of a training that torchrun has started: who has which part of a batch, and how weights are divided.

    with torchrun_ranks("auto") as ranks:               # of one process where torchrun has not started any
        ranks.divide(model, model.blocks, shards=2)
        for share in ranks.shares(parts=4):             # this process's parts of a batch
            loss(model, share.of(batch))

Each process, or rank, computes the gradients of its share of a batch, and all take the mean of them. Weights, moments
and averages are kept whole by each (data parallel), or divided among `shards` of them, which gather those of a block
when they need them (`torch.distributed.fsdp.fully_shard`; Zhao et al. 2023, arXiv 2304.11277). Both are one mesh of
count / shards by shards ranks.
"""

import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from ..core.errors import ReelmError, require

Rows = TypeVar("Rows", torch.Tensor, list)
PATIENCE = timedelta(hours=12)  # for the first rank, which may have clips to encode


@dataclass(frozen=True)
class Share:
    """One of `count` equal parts of a batch."""

    index: int = 0
    count: int = 1

    def of(self, rows: Rows) -> Rows:
        """Return the rows of a batch that are in this part; `check_batch` has found that they can be divided."""
        size = len(rows) // self.count
        return rows[self.index * size : (self.index + 1) * size]


WHOLE_BATCH = Share()


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, of which this is one.

    Attributes:
        rank: The number of this process.
        count: The number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def device(self, device: str) -> str:
        """Return the device of this process: the one of its number on its machine, unless one is named."""
        own = self.count > 1 and torch.cuda.is_available() and device in ("auto", "cuda")
        return f"cuda:{os.environ.get('LOCAL_RANK', self.rank)}" if own else device

    def shares(self, parts: int = 1) -> list[Share]:
        """Return the parts of a batch that this process computes one after another."""
        return [Share(self.rank * parts + part, self.count * parts) for part in range(parts)]

    def own_part(self, share: Share) -> Share:
        """Return which part of this process's clips of a batch one of its `shares` is."""
        parts = share.count // self.count
        return Share(share.index % parts, parts)

    def check_shards(self, shards: int) -> None:
        """Check that weights can be divided among so many of the processes.

        Raises:
            ReelmError: They cannot.
        """
        require(self.count % shards == 0, "shards", f"must divide the number of processes, {self.count}", shards)

    def check_batch(self, rows: int, parts: int, name: str) -> None:
        """Check that a batch can be divided among the processes.

        Raises:
            ReelmError: It cannot.
        """
        whole = self.count * parts
        rule = f"must make a number of clips that {self.count} processes, with {parts} parts each, can share equally"
        require(rows % whole == 0, name, rule, f"{rows} clips")

    def divide(self, module: nn.Module, blocks: Iterable[nn.Module], shards: int) -> None:
        """Divide the weights of a module among `shards` processes, those of each of its blocks by themselves.

        Raises:
            ReelmError: See `check_shards`.
        """
        self.check_shards(shards)
        if self.count == 1:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        kind = next(module.parameters()).device.type
        mesh = init_device_mesh(kind, (self.count // shards, shards), mesh_dim_names=("replicate", "shard"))
        for each in [*blocks, module]:
            fully_shard(each, mesh=mesh)

    def any_of(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set in any process."""
        if self.count == 1:
            return [*flags]
        found = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return [bool(flag) for flag in found]

    def mean(self, values: Sequence[float]) -> list[float]:
        """Return the mean of each value over the processes."""
        if self.count == 1:
            return [*values]
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return (total / self.count).tolist()

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.any_of(False)

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let the first process do something, and the others after it, who find it done."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


ONE_RANK = Ranks()


@contextlib.contextmanager
def torchrun_ranks(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun has started; the others than the first one print nothing but errors.

    Raises:
        ReelmError: Another process has ended meanwhile.
    """
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size())
        return
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield Ranks()
        return
    on_gpu = torch.cuda.is_available() and device in ("auto", "cuda")
    if on_gpu:  # which the mesh of the weights takes, too
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Flags and figures are on the CPU in any case.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    quiet = contextlib.ExitStack()
    if not ranks.first:
        quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
        quiet.enter_context(contextlib.redirect_stderr(io.StringIO()))
    try:
        with quiet:
            yield ranks
    except RuntimeError as error:
        lost = "Connection closed by peer" in str(error) or "Connection reset by peer" in str(error)
        if not lost:
            raise
        raise ReelmError("train: another process of the training has ended; go on with --resume") from error
    finally:
        dist.destroy_process_group()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of which each process may have a part; all processes must ask for it."""
    gather = getattr(tensor, "full_tensor", None)
    found: torch.Tensor = tensor if gather is None else gather()
    return found


def part_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a whole tensor, as it has one of another tensor."""
    if not hasattr(like, "device_mesh"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
