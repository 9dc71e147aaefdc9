"""Layers of a language model that are divided among processes: each has some heads, and some hidden units.

    division = divide_layers(model, mesh)                       # in place
    division.add_gradients(model)                               # after each backward pass
    norm = clip_gradients(model.parameters(), 1.0)

The products before the heads and the hidden units are divided by rows, those after them by columns, so that the
processes add up what they have twice in a layer (Shoeybi et al. 2019, arXiv 1909.08053). All else is in each of them:
embeddings, norms and the head. `torch.distributed.tensor.parallel` does this for each product.

The rows of queries, keys and values are in one matrix, and those of gates and what they open in another. A process has
neighbouring rows of a matrix: so they are put into an order in which those of its heads, and of its hidden units, are
neighbours. Checkpoints have the order of one process.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn

from ..core.errors import require
from ..lm.blocks import Block
from ..lm.lm_config import LMConfig
from .divided_tensors import local, whole

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def check_tensor(config: LMConfig, count: int) -> None:
    """Check that the layers of a model can be divided among so many processes.

    Raises:
        ReelmError: They cannot.
    """
    for name in ("heads", "kv_heads", "hidden"):
        size = getattr(config, name)
        require(size % count == 0, "tensor", f"must divide the model's {name}, {size}", count)


@dataclass(frozen=True)
class Division:
    """How the layers of a model are divided.

    Attributes:
        orders: The order of the rows of each matrix whose rows have another one than in checkpoints, by its name.
        group: The processes that have a layer together; None where each has whole layers.
    """

    orders: Mapping[str, torch.Tensor] = field(default_factory=dict)
    group: dist.ProcessGroup | None = None

    def add_gradients(self, model: nn.Module) -> None:
        """Add up what each process has of the gradients of norms of queries and keys, which it has of its own heads."""
        for block in _blocks(model).values():
            for weight in (block.attention.q_norm, block.attention.k_norm):
                if weight is not None and weight.grad is not None:
                    dist.all_reduce(local(weight.grad), group=self.group)


def divide_layers(model: nn.Module, mesh: "DeviceMesh") -> Division:
    """Divide the layers of a model among the processes of a mesh of one dimension."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plan = {"attention.qkv": ColwiseParallel(), "attention.out": RowwiseParallel(),
            "gate_up": ColwiseParallel(), "down": RowwiseParallel()}  # fmt: skip
    orders, count = dict[str, torch.Tensor](), mesh.size()
    for name, block in _blocks(model).items():
        queries, keys, values = block.attention.heads
        rows = {
            "attention.qkv": _order([heads * block.attention.head_dim for heads in block.attention.heads], count),
            "gate_up": _order([block.down.in_features] * 2, count),
        }
        for linear, order in rows.items():
            weight = block.get_submodule(linear).get_parameter("weight")
            weight.data = weight.data[order.to(weight.device)]
            orders[f"{name}.{linear}.weight"] = order
        parallelize_module(block, mesh, plan)
        block.attention.heads = (queries // count, keys // count, values // count)
    return Division(orders, mesh.get_group())


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> torch.Tensor:
    """Scale gradients down to a norm, and return the one before: `clip_grad_norm_` of what is divided in several ways.

    That function refuses tensors of several meshes, and some that are divided beside others that are not.
    """
    groups = dict[object, list[torch.Tensor]]()
    for weight in parameters:
        if weight.grad is not None:
            way = getattr(weight.grad, "device_mesh", None), getattr(weight.grad, "placements", None)
            groups.setdefault(way, []).append(weight.grad)
    norms = [whole(nn.utils.get_total_norm(group)) for group in groups.values()]
    norm = torch.stack(norms).square().sum().sqrt()
    scale = (most / (norm + 1e-6)).clamp(max=1)
    for group in groups.values():
        for gradient in group:
            local(gradient).mul_(scale)
    return norm


def _blocks(model: nn.Module) -> dict[str, Block]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Block)}


def _order(sizes: Sequence[int], count: int) -> torch.Tensor:
    """Return the rows of parts of these sizes, so that each of `count` processes has its rows of all parts together."""
    parts = torch.arange(sum(sizes)).split([*sizes])
    return torch.cat([part.chunk(count)[rank] for rank in range(count) for part in parts])
