"""The processes of a training that torchrun has started: who has which part of a batch, and how weights are divided.

    with torchrun_ranks("auto") as ranks:               # of one process where torchrun has not started any
        ranks.divide(model, model.blocks, shards=2)
        for share in ranks.shares(parts=4):             # this process's parts of a batch
            loss(model, share.of(batch))

Each process, or rank, computes the gradients of its share of a batch, and all take the mean of them. Weights, moments
and averages are kept whole by each (data parallel), or divided among `shards` of them, which gather those of a block
when they need them (`torch.distributed.fsdp.fully_shard`; Zhao et al. 2023, arXiv 2304.11277). Or the layers of a model
are divided among `tensor` neighbours, which compute one share together (tensor_parallel.py). All are one mesh of
count / shards / tensor by shards by tensor ranks.
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
from .tensor_parallel import Division, divide_layers

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
        tensor: The number of neighbours that compute one share together.
    """

    rank: int = 0
    count: int = 1
    tensor: int = 1

    @property
    def groups(self) -> int:
        """The number of shares of a batch that are computed at a time."""
        return self.count // self.tensor

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
        first = self.rank // self.tensor * parts
        return [Share(first + part, self.groups * parts) for part in range(parts)]

    def own_part(self, share: Share) -> Share:
        """Return which part of this process's clips of a batch one of its `shares` is."""
        parts = share.count // self.groups
        return Share(share.index % parts, parts)

    def joined(self, shards: int, tensor: int) -> "Ranks":
        """Return the same processes, of which `tensor` neighbours compute one share together.

        Raises:
            ReelmError: They cannot be divided so, or weights cannot be divided among `shards` groups of them.
        """
        require(self.count % tensor == 0, "tensor", f"must divide the number of processes, {self.count}", tensor)
        groups = self.count // tensor
        of_what = "processes" if tensor == 1 else f"groups of {tensor} processes"
        require(groups % shards == 0, "shards", f"must divide the number of {of_what}, {groups}", shards)
        return Ranks(self.rank, self.count, tensor)

    def check_batch(self, rows: int, parts: int, name: str) -> None:
        """Check that a batch can be divided among the processes.

        Raises:
            ReelmError: It cannot.
        """
        rule = f"must make a number of clips that {self.groups} processes, with {parts} parts each, can share equally"
        require(rows % (self.groups * parts) == 0, name, rule, f"{rows} clips")

    def divide(self, module: nn.Module, layers: Iterable[nn.Module], shards: int) -> Division:
        """Divide the weights of a module among the processes, those of each of its layers by themselves."""
        if self.count == 1:
            return Division()
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        kind = next(module.parameters()).device.type
        names = ("replicate", "shard", "tensor")
        mesh = init_device_mesh(kind, (self.groups // shards, shards, self.tensor), mesh_dim_names=names)
        division = Division() if self.tensor == 1 else divide_layers(module, mesh["tensor"])
        if self.groups > 1:
            for each in [*layers, module]:
                fully_shard(each, mesh=mesh["replicate", "shard"])
        return division

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
