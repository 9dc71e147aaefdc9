"""Tensors of a model here that are made of rows of published ones, read when they are written.

tensors = stream_tensors(source, shapes, lambda name: (Rows("layers.0.wq"), Rows("layers.0.wk"), Rows("layers.0.wv")))
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from ..core.checkpoint import uninitialised
from ..core.errors import CheckpointError
from ..core.streamed_tensors import StreamedTensor
from .sizes import BlockSizes

MOST_LAYERS = 1000


class TensorSource(Protocol):
    """Published tensors by name, one of which is in memory at a time."""

    @property
    def names(self) -> list[str]:
        """The names of the tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor."""

    def tensor(self, name: str) -> torch.Tensor:
        """Read a tensor."""


class Rows(NamedTuple):
    """Rows of a published tensor.

    Attributes:
        name: The name of the tensor.
        start, stop: The rows; all by default.
    """

    name: str
    start: int = 0
    stop: int | None = None


Published = Callable[[str], Sequence[Rows]]


def stream_tensors(
    source: TensorSource, shapes: Mapping[str, tuple[int, ...]], published: Published
) -> list[StreamedTensor]:
    """Return the tensors with these names and shapes, made of the published ones.

    Args:
        source: The published tensors.
        shapes: The shapes by name.
        published: The function from a name to the rows, in their order, that make the tensor.

    Raises:
        CheckpointError: A published tensor is missing or unknown, or has another shape or dtype.
    """
    names, found, used = set(source.names), [], set[str]()
    for name, shape in shapes.items():
        parts = published(name)
        missing = [part.name for part in parts if part.name not in names]
        if missing:
            raise CheckpointError(f"source: must have the tensor {missing[0]}, got {len(names)} others")
        used.update(part.name for part in parts)
        found.append(_tensor(source, name, shape, parts))
    unknown = sorted(names - used)
    if unknown:
        raise CheckpointError(
            f"source: must have the {len(used)} tensors of this model, got {', '.join(unknown[:3])} too"
        )
    return found


def _tensor(source: TensorSource, name: str, shape: tuple[int, ...], parts: Sequence[Rows]) -> StreamedTensor:
    shapes = [source.shape(part.name) for part in parts]
    rows = [len(range(*slice(part.start, part.stop).indices(each[0]))) if each else 0
            for part, each in zip(parts, shapes, strict=True)]  # fmt: skip
    fits = (shape == () and shapes == [()]) or (
        all(len(each) == len(shape) and each[1:] == shape[1:] for each in shapes) and sum(rows) == shape[0]
    )
    joined = " and ".join(part.name for part in parts)
    if not fits:
        raise CheckpointError(
            f"source: {joined} must have together the shape {shape}, got {', '.join(map(str, shapes))}"
        )
    dtypes = {source.dtype(part.name) for part in parts}
    counts = name.endswith("num_batches_tracked")  # of a batch norm, the only one that counts
    if len(dtypes) > 1 or not all(dtype.is_floating_point or counts for dtype in dtypes):
        raise CheckpointError(f"source: {joined} must have one floating-point dtype, got {dtypes}")
    reads = tuple(functools.partial(_read, source, part) for part in parts)
    return StreamedTensor(name, dtypes.pop(), shape, reads)


def _read(source: TensorSource, part: Rows) -> torch.Tensor:
    tensor = source.tensor(part.name)
    return tensor if tensor.ndim == 0 else tensor[part.start : part.stop]


class PrefixedSource:
    """The tensors of a source whose names begin in some way, without that beginning."""

    def __init__(self, source: TensorSource, prefix: str, *, without: str | None = None) -> None:
        """Choose the tensors.

        Args:
            source: All tensors.
            prefix: The regular expression of what is left out in front of names.
            without: That of the names that are left out; None leaves out those that do not begin with `prefix`.

        Raises:
            CheckpointError: Two tensors have the same name without its beginning.
        """
        self._source, self._names = source, dict[str, str]()
        for name in source.names:
            own = re.sub(prefix, "", name)
            if (own == name) if without is None else re.match(without, name):
                continue
            if own in self._names:
                raise CheckpointError(f"source: must have each tensor once, got {own} twice")
            self._names[own] = name

    @property
    def names(self) -> list[str]:
        """The names of the tensors."""
        return list(self._names)

    def _name(self, name: str) -> str:
        if name not in self._names:
            raise CheckpointError(f"source: must have the tensor {name}, got {len(self._names)} others")
        return self._names[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._source.shape(self._name(name))

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor."""
        return self._source.dtype(self._name(name))

    def tensor(self, name: str) -> torch.Tensor:
        """Read a tensor."""
        return self._source.tensor(self._name(name))


def shapes_of(make: Callable[[Any], nn.Module], config: BlockSizes) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a model of these sizes, without memory for them.

    Raises:
        CheckpointError: No model has such sizes.
    """
    if config.depth > MOST_LAYERS:
        raise CheckpointError(f"source: config.json must have at most {MOST_LAYERS} layers, got {config.depth}")
    try:
        with uninitialised(), torch.device("meta"):
            return {name: tuple(tensor.shape) for name, tensor in make(config).state_dict().items()}
    except (RuntimeError, TypeError, OverflowError) as error:
        raise CheckpointError(f"source: config.json must have sizes of a model: {error}") from error
