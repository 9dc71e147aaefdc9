"""Read the tensors of torch's archives (.pt, .jit) without running anything that they hold.

with TorchArchive(Path("encoder.jit")) as archive:
    archive.names                       # "encoder.conv_in.0.conv3d.weight", …
    archive.tensor(name)                # one tensor at a time is in memory

An archive is a zip file with a pickle of its objects (data.pkl) and a file of bytes for each storage (PyTorch's
documentation, "Serialization semantics"). torch.load(weights_only=True) refuses those of TorchScript, and
torch.jit.load compiles the code in them. Here the pickle is read by an unpickler that knows a few names: those with
which tensors, dictionaries and TorchScript's lists are written, and the modules of TorchScript, each of which becomes
an object that only holds its attributes. Any other name is refused, so that nothing in the file decides what is called.
"""

import contextlib
import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import torch

from .errors import CheckpointError

MOST_BYTES = 64 * 2**20  # of a pickle of objects, which has no tensor's data in it
PIECE = 16 * 2**20
STORAGES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


class _Fixed:
    """What the file cannot change once it is made."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a tensor has no state of its own")


@dataclass(frozen=True)
class _Storage(_Fixed):
    dtype: torch.dtype
    key: str


@dataclass(frozen=True)
class _Tensor(_Fixed):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Module:
    """A module of TorchScript: its attributes, and no code."""

    def __init__(self, *_: object) -> None:
        self.attributes: dict[object, object] = {}

    def __setstate__(self, state: object) -> None:
        self.attributes = dict(state) if isinstance(state, dict) else {}


class _Dictionary(dict[Any, Any]):
    def __setstate__(self, state: object) -> None:
        pass  # such as the _metadata of a state dict


class _Make:
    """A function that may be called while an archive is read; it cannot be changed from there."""

    __slots__ = ("_make",)

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *values: Any) -> object:
        return self._make(*values)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a function has no state")


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: object) -> _Tensor:
    numbers = (offset, *shape, *stride)
    if (
        not isinstance(storage, _Storage)
        or len(shape) != len(stride)
        or not all(type(n) is int and n >= 0 for n in numbers)
    ):
        raise pickle.UnpicklingError("a tensor has no storage, or a negative size")
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


def _first(value: object, *_: object) -> object:
    return value


def _dictionary(*_: object) -> _Dictionary:
    return _Dictionary()  # its entries follow, and their keys are checked


NAMES: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): _Make(_dictionary),
    ("torch._utils", "_rebuild_tensor_v2"): _Make(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Make(_first),
    ("torch", "device"): _Make(_first),
    **{("torch.jit._pickle", f"build_{kind}list"): _Make(_first) for kind in ("int", "double", "bool", "tensor")},
    ("torch.jit._pickle", "restore_type_tag"): _Make(_first),
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


def _with_plain_keys(load: Callable[[Any], None], keys: slice) -> Callable[[Any], None]:
    """Return an instruction of pickles that refuses keys whose hash could take for ever, such as tuples in tuples."""

    def checked(unpickler: Any) -> None:
        if not all(isinstance(key, str | int) for key in unpickler.stack[keys]):
            raise pickle.UnpicklingError("a key is neither a text nor a number")
        load(unpickler)

    return checked


def _refuse_set(_: object) -> None:
    raise pickle.UnpicklingError("a set is no part of a tensor")


class _Unpickler(pickle._Unpickler):
    # That of C makes a table as long as the largest number in the file; this one keeps what there is.
    stack: list[Any]
    _load = pickle._Unpickler.dispatch
    # The stack ends with the key and the value of an entry, or has been begun anew for those of some entries.
    dispatch: ClassVar[dict[int, Any]] = _load | {
        pickle.SETITEM[0]: _with_plain_keys(_load[pickle.SETITEM[0]], slice(-2, -1)),
        pickle.SETITEMS[0]: _with_plain_keys(_load[pickle.SETITEMS[0]], slice(None, None, 2)),
        pickle.DICT[0]: _with_plain_keys(_load[pickle.DICT[0]], slice(None, None, 2)),
        pickle.ADDITEMS[0]: _refuse_set,
        pickle.FROZENSET[0]: _refuse_set,
    }

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Module
        if (module, name) not in NAMES:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a tensor")
        return NAMES[module, name]

    def persistent_load(self, identity: Any) -> _Storage:
        kind, dtype, key, _, _ = identity
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError("a storage of an unknown kind")
        return _Storage(dtype, key)


class TorchArchive:
    """The tensors of an archive by name; a context manager."""

    def __init__(self, path: Path) -> None:
        """Read the names and sizes of the tensors.

        Raises:
            CheckpointError: The file is missing, is no archive of torch, is damaged, or needs code to be read.
        """
        self.path = path
        with _refusing(f"{path.name}: must be an archive that torch has saved"):
            self._zip = zipfile.ZipFile(path)
        try:
            with _refusing(f"{path.name}: must hold tensors, and nothing that runs"):
                self._root, objects = self._objects()
                self._tensors = dict(_named(objects, "", set()))
        except CheckpointError:
            self._zip.close()
            raise

    def __enter__(self) -> "TorchArchive":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    @property
    def names(self) -> list[str]:
        """The names of the tensors."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._tensors[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor."""
        return self._tensors[name].storage.dtype

    def tensor(self, name: str) -> torch.Tensor:
        """Read a tensor.

        Raises:
            CheckpointError: Its bytes are not there, or damaged.
        """
        found, dtype = self._tensors[name], self._tensors[name].storage.dtype
        last = found.offset + sum((n - 1) * step for n, step in zip(found.shape, found.stride, strict=True))
        with _refusing(f"{self.path.name}: {name} must be whole"):
            if not math.prod(found.shape):
                return torch.empty(found.shape, dtype=dtype)
            data = self._read(f"{self._root}data/{found.storage.key}")
            # A tensor of more entries than its storage has would repeat them, without end where the file is damaged.
            needed = max(last + 1, math.prod(found.shape)) * dtype.itemsize
            if len(data) < needed:
                raise CheckpointError(f"{self.path.name}: {name} must have {needed} bytes, got {len(data)}")
            storage = torch.frombuffer(data, dtype=dtype, count=last + 1)
            return storage.as_strided(found.shape, found.stride, found.offset).contiguous()

    def _objects(self) -> tuple[str, object]:
        found = [name for name in self._zip.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(found) != 1 or self._zip.getinfo(found[0]).file_size > MOST_BYTES:
            raise CheckpointError(f"{self.path.name}: must have one list of its tensors, of at most {MOST_BYTES} bytes")
        return found[0][: -len("data.pkl")], _Unpickler(io.BytesIO(self._read(found[0]))).load()

    def _read(self, name: str) -> bytearray:
        entry = self._zip.getinfo(name)
        if entry.compress_type != zipfile.ZIP_STORED:  # a little file could become a large one
            raise CheckpointError(f"{self.path.name}: {name} must not be compressed")
        if entry.file_size > self.path.stat().st_size:
            raise CheckpointError(f"{self.path.name}: {name} must lie in the file, got {entry.file_size} bytes")
        data, place = bytearray(entry.file_size), 0
        with self._zip.open(entry) as file:  # in pieces, as all at once would be in memory twice
            while piece := file.read(PIECE):
                data[place : place + len(piece)] = piece
                place += len(piece)
        return data


@contextlib.contextmanager
def _refusing(rule: str) -> Iterator[None]:
    """Turn what goes wrong in reading a damaged file, of which there are many kinds, into an error with this rule."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{rule}: {error}") from error


def _named(value: object, name: str, seen: set[int]) -> Iterator[tuple[str, _Tensor]]:
    """Yield the tensors in an object with the names under which they are reached.

    A container is looked into once: where some hold each other again and again, names would be without number.
    """
    if isinstance(value, _Tensor):
        yield name, value
    inside = value.attributes if isinstance(value, _Module) else value
    if not isinstance(inside, dict) or id(inside) in seen:
        return
    seen.add(id(inside))
    for key, entry in inside.items():
        if isinstance(key, str):
            yield from _named(entry, f"{name}.{key}" if name else key, seen)
