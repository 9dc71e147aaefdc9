"""Layers of a language model of which each process has a part: some heads, and some hidden units.

    divide = DividedLayers(lm, processes=2, replace=replace)
    load_weights(lm, path, replace=divide)                      # a matrix at a time, of which a part is kept
    divide.finish()                                             # the model has the sizes of its part

The products before the heads and the hidden units are divided by rows, those after them by columns, whose results the
processes add up, twice in a layer (Shoeybi et al. 2019, arXiv 1909.08053). All else is in each process: embeddings,
norms and the head. So every process has all logits, draws the same tokens, and must be called with the same arguments.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn

from ..core.errors import require
from .blocks import Attention
from .cross_attention import CrossAttention

BY_COLUMNS = ("out", "down")


class AddedUp(nn.Module):
    """A linear layer of whose inputs each process has some: the results are added up."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map the inputs (…, in) of this process to the outputs (…, out) of all."""
        out: torch.Tensor = self.linear(x)
        out = out.contiguous()
        dist.all_reduce(out)
        return out


class DividedLayers:
    """Replaces the layers of a model by parts of them while its weights are loaded."""

    def __init__(self, lm: nn.Module, *, processes: int, replace: Callable[[str], bool]) -> None:
        """Prepare the division.

        Args:
            lm: The language model, whose `config` has `heads`, `kv_heads` and `hidden`.
            processes: The number of processes.
            replace: The function that replaces a layer, given the name of its weight, by a faster one; see
                `load_weights`.

        Raises:
            ReelmError: The layers cannot be divided among so many.
        """
        self._lm, self._replace, self._count, self._rank = lm, replace, processes, dist.get_rank()
        self._config: Any = lm.config
        for name in ("heads", "kv_heads", "hidden"):
            size = getattr(self._config, name)
            require(size % processes == 0, "processes", f"must divide the model's {name}, {size}", processes)

    def __call__(self, name: str) -> bool:
        """Replace the layer with the weight `name`, which is loaded; return whether it has its own memory now."""
        path, _, own = name.removesuffix(".weight").rpartition(".")
        parent = self._lm.get_submodule(path)
        parts = self._parts(own) if "blocks." in name or "cross_attention." in name else None
        linear = getattr(parent, own, None)
        if parts is None or not isinstance(linear, nn.Linear):
            return self._replace(name)
        weight, by_columns = linear.weight.detach(), own in BY_COLUMNS
        chunks = [part.chunk(self._count, 1 if by_columns else 0)[self._rank] for part in weight.split(parts)]
        local = torch.cat(chunks).contiguous().clone()
        layer = nn.Linear(local.shape[1], local.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(local, requires_grad=False)
        setattr(parent, own, layer)
        self._replace(name)
        if by_columns:
            setattr(parent, own, AddedUp(getattr(parent, own)))
        return True

    def _parts(self, layer: str) -> list[int] | None:
        """Return the numbers of rows that are divided each by itself; None for a layer that is not divided."""
        config = self._config
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        return {
            "qkv": [queries, keys, keys], "q": [queries], "kv": [keys, keys], "gate_up": [config.hidden] * 2,
            "out": [config.width], "down": [config.width],
        }.get(layer)  # fmt: skip

    def finish(self) -> None:
        """Give the model, and its attention, the numbers of heads of this process."""
        config, count = self._config, self._count
        heads, kv_heads = config.heads // count, config.kv_heads // count
        for module in self._lm.modules():
            if isinstance(module, Attention):
                module.heads = (heads, kv_heads, kv_heads)
            elif isinstance(module, CrossAttention):
                module.heads, module.kv_heads = heads, kv_heads
        cast(Any, self._lm).config = dataclasses.replace(
            config, heads=heads, kv_heads=kv_heads, hidden=config.hidden // count
        )
