"""Numbers of other libraries as Python's own, so that the rest of reelm knows one kind of each, and arrays as tensors.

to_python(np.int64(3)), to_python(torch.tensor([1, 2])), to_python(Fraction(1, 2))        # 3, [1, 2], 0.5
to_tensor(np.broadcast_to(np.uint8(0), (2, 3)))                                           # a copy that may be written

class Settings: def __post_init__(self) -> None: convert_fields(self)                     # a frozen dataclass
"""

import dataclasses
import operator
from typing import TYPE_CHECKING, SupportsFloat, SupportsIndex

import numpy as np
import torch

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def to_python(value: object) -> object:
    """Convert a number to Python's bool, int or float, arrays with one axis and ranges to lists; return others as is.

    Whole numbers are those that `operator.index` takes; a float stays one, even where it is whole. Numbers in lists and
    tuples are converted too. An array or tensor without an axis is a number.
    """
    if value is None or isinstance(value, str | bytes) or type(value) in (bool, int, float):
        return value
    if isinstance(value, np.ndarray | torch.Tensor):
        return value if value.ndim > 1 or _has_no_data(value) else to_python(value.tolist())
    if isinstance(value, list | range):
        return [to_python(item) for item in value]
    if type(value) is tuple:
        return tuple(to_python(item) for item in value)
    # A function, or a mock of one, may also have the methods of a number.
    return value if callable(value) else _number(value)


def convert_fields(config: "DataclassInstance") -> None:
    """Apply `to_python` to every field of a dataclass, in place, even if it is frozen; lists become tuples again."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        plain = to_python(value)
        if plain is not value:
            as_tuple = isinstance(plain, list) and not isinstance(value, list)
            object.__setattr__(config, item.name, tuple(plain) if as_tuple else plain)  # type: ignore[arg-type]


def to_tensor(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Return an array as a tensor: on the CPU, without gradients, and with the array's memory where torch can use that.

    An array is copied where it is read-only (writing to a tensor of it would be undefined), reversed, or in another
    order of bytes than the machine's.
    """
    if isinstance(array, torch.Tensor):
        return array.detach().cpu()
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def _has_no_data(value: np.ndarray | torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "meta"


def _number(value: object) -> object:
    if isinstance(value, np.bool_):
        return bool(value)
    try:
        if isinstance(value, SupportsIndex):
            return operator.index(value)
        if isinstance(value, SupportsFloat):
            return float(value)
    except (TypeError, ValueError, ArithmeticError):  # for example an array of several numbers
        return value
    return value
