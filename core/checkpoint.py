"""Checkpoint folders: config.json, *.safetensors and text.model. Nothing is unpickled, and no code in them is run.

folder = find_checkpoint("world")                         # bundled name, a folder, or a hub id
with uninitialised():
    model = VideoTransformer(config)                      # no random weights are drawn
load_weights(model, folder / "lm.safetensors")            # after a check of names, shapes and dtypes
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import nn
from torch.overrides import TorchFunctionMode

from .errors import INSTALL, CheckpointError
from .files import as_path, atomic_write
from .json_values import Json, JsonValue, json_text

Result = TypeVar("Result")
# In a file a matrix may be in int8; the scales of its rows are a tensor of their own, named like it and this.
SCALES = ".scales"
BUNDLED = Path(__file__).resolve().parent.parent / "checkpoints"
# The files of a checkpoint. No others are fetched: a repository's code and pickles never reach this machine.
FILES = ("config.json", "*.safetensors", "text.model", "text.json", "plays.json")


def find_checkpoint(
    name: str | Path, *, revision: str | None = None, cache_dir: str | None = None, local_files_only: bool = False
) -> Path:
    """Return the folder of a checkpoint: a bundled name, an existing folder, or a hub id "owner/name" (downloaded).

    A bundled name takes precedence over a folder of that name in the current directory; "./world" names the folder.

    Args:
        name: The bundled name, the folder or the hub id.
        revision: The revision of the hub's repository; by default the newest.
        cache_dir: The folder to download to; by default that of huggingface_hub.
        local_files_only: Whether to use only what has been downloaded before.

    Raises:
        CheckpointError: There is no such folder, bundled name or hub id.
    """
    folder, bundled = as_path(name, "model"), sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))
    if isinstance(name, str) and name in bundled:
        return BUNDLED / name
    if folder.is_dir():
        return folder
    owner, slash, rest = str(name).partition("/")
    if not (slash and owner and rest and "/" not in rest and not owner.startswith((".", "~"))):
        raise CheckpointError(f"model: must be a folder, a hub id or one of {bundled}, got {str(name)!r}")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise CheckpointError(
            f"model: {str(name)!r} is no folder here; to fetch it from the hub, {INSTALL.format('hub')}"
        ) from None
    try:
        return Path(
            snapshot_download(
                str(name),
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=[*FILES],
                ignore_patterns=["*/*"],
            )
        )
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"model: could not fetch {str(name)!r} from the hub: {reason}") from error


def read_json(path: Path) -> Json:
    """Return the JSON object in the file `path`.

    Raises:
        CheckpointError: The file is missing, is not JSON, or holds another value than an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"model: {path.name} must exist in the folder, got none in {str(path.parent)!r}"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"model: {path.name} must be JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"model: {path.name} must hold a table, got {type(values).__name__}")
    return values


class _Uninitialised(TorchFunctionMode):
    """Skips every call that would fill a tensor with random numbers."""

    RANDOM = frozenset({
        nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, torch.Tensor.normal_, torch.Tensor.uniform_,
    })  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def uninitialised() -> AbstractContextManager[object]:
    """Return a context in which modules are made without drawing random weights, for `load_weights` to fill them.

    The system allocates no memory for weights that nothing writes to, and no random generator advances. The context
    holds for the calling thread only; buffers that a module computes get their usual values. (On the meta device
    modules would have no such buffers, and an embedding there imports torch's compiler, which takes a second.)
    """
    return _Uninitialised()


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a safetensors file by name, on the CPU; the file is mapped and only read on use.

    Raises:
        CheckpointError: The file is missing, or is not a whole safetensors file.
    """
    return _read(path, lambda file: {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no dict)


def _read(path: Path, get: Callable[[Any], Result]) -> Result:
    if not path.is_file():
        raise CheckpointError(f"model: {path.name} must exist in the folder, got none in {str(path.parent)!r}")
    try:
        with safe_open(path, framework="pt") as file:
            return get(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"model: {path.name} must be a whole safetensors file (pickled or truncated ones are refused): {error}"
        ) from error


def load_weights(
    module: nn.Module,
    path: Path,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    replace: Callable[[str], bool] | None = None,
) -> None:
    """Load the weights in `path` into `module` one tensor at a time, so that memory never holds two copies of them.

    Names, shapes and whether dtypes are floating-point are checked before anything is written, and each tensor is
    checked for finite values before it is written.

    Args:
        module: The module to fill; make a new one inside `uninitialised`.
        path: A safetensors file with one tensor for each parameter and buffer of the module. A matrix may be in int8,
            with the scale of each row in a tensor of its name and `SCALES`.
        device, dtype: The device and dtype that the parameters get; by default those that they have.
        replace: A function that is called with the name of each parameter once it is loaded. It may replace the
            parameter's layer by another one that is made from these values and has its own memory, and returns whether
            it did.

    Raises:
        CheckpointError: A file, a tensor or a shape is missing, unexpected or wrong. `module` must not be used then.
    """
    version, wanted, buffers = _version(path), module.state_dict(), dict(module.named_buffers())
    scaled = _check_sizes(wanted, load_tensors(path), path.name)
    largest = max(tensor.numel() for tensor in wanted.values())
    # One buffer for all parameters that are replaced: allocating and freeing each would fragment the heap.
    buffer = torch.empty(0 if replace is None else largest, device=device, dtype=dtype)
    for name in list(wanted):
        del wanted[name]  # it would keep the memory of the parameter that is overwritten
        # The file is opened for each tensor, since closing it returns the memory of the tensors read so far.
        tensor = _finite_tensor(path, name)
        if name in scaled:
            tensor = tensor.float().mul_(_finite_tensor(path, name + SCALES)[:, None])
        if name in buffers:
            buffers[name].copy_(tensor)
            continue
        parameter, replaced = module.get_parameter(name), False
        if replace is not None:
            parameter.data = buffer[: tensor.numel()].view(tensor.shape).copy_(tensor)
            replaced = replace(name)
        if not replaced:
            parameter.data = tensor.to(device or parameter.device, dtype or parameter.dtype, copy=True)
    if _version(path) != version:
        raise CheckpointError(f"model: {path.name} must stay as it is while it is read")


def _finite_tensor(path: Path, name: str) -> torch.Tensor:
    tensor = _read(path, lambda file: file.get_tensor(name))
    # A sum that includes infinity or NaN is not finite, and takes less than half the time of testing each number. A sum
    # of finite numbers may overflow; then the largest and the smallest number decide.
    finite = not tensor.is_floating_point() or tensor.sum().isfinite() or all(map(math.isfinite, tensor.aminmax()))
    if not finite:
        raise CheckpointError(f"model: {path.name}: {name} must be finite, got NaN or infinity")
    return tensor


def _version(path: Path) -> tuple[int, int, int] | None:
    """Return values that differ after the file is replaced by another; None where there is no file."""
    if not path.is_file():
        return None
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _check_sizes(wanted: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor], file: str) -> set[str]:
    """Check names, shapes and dtypes, and return the names of the matrices that are in int8, with scales."""
    scaled = {name for name, tensor in wanted.items() if tensor.ndim == 2 and name + SCALES in tensors}
    expected = dict(wanted)
    for name in scaled:
        expected[name] = torch.empty(wanted[name].shape, dtype=torch.int8, device="meta")
        expected[name + SCALES] = torch.empty(len(wanted[name]), device="meta")
    missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or extra:
        raise CheckpointError(
            f"model: {file} must hold what its config asks for; missing {missing[:3]}, extra {extra[:3]}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"model: {file}: {name} must have shape {tuple(expected[name].shape)}, got {tuple(tensor.shape)}"
            )
        if tensor.is_floating_point() != expected[name].is_floating_point():
            raise CheckpointError(f"model: {file}: {name} must be {expected[name].dtype}, got {tensor.dtype}")
    return scaled


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors by name, and string metadata, to a safetensors file atomically."""
    atomic_write(path, *safetensors_content(tensors, metadata))


def safetensors_content(
    tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> list[bytes | memoryview]:
    """Return the content of a safetensors file in parts; it is a copy of the tensors.

    Equal tensors and metadata give equal bytes in every process: safetensors writes the tensors in a fixed order, and
    the keys of the metadata are sorted here, since it writes them in a random one.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = memoryview(safetensors_bytes(plain, metadata))
    # The file is the length of the header in 8 bytes, the header as JSON, padded with spaces, and the tensors.
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(bytes(data[8 : 8 + length]))
    if metadata is not None:
        header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [struct.pack("<Q", len(text)), text, data[8 + length :]]


def save_json(path: Path, values: Mapping[str, JsonValue]) -> None:
    """Write a JSON object to a file atomically; NaN and infinities become null."""
    atomic_write(path, json_text(values, indent=2) + "\n")
