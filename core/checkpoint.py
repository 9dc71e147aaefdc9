"""A checkpoint folder: config.json, *.safetensors and text.model. Nothing is ever unpickled, no code is run.

folder = find_checkpoint("world")                         # bundled name, a folder, or a hub id
load_weights(model, folder / "lm.safetensors")            # names, shapes and dtypes are checked first
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from .errors import CheckpointError
from .files import atomic_write

BUNDLED = Path(__file__).resolve().parent.parent / "checkpoints"


def find_checkpoint(
    name: str | Path, *, revision: str | None = None, cache_dir: str | None = None, local_files_only: bool = False
) -> Path:
    """The folder of a checkpoint: a bundled name, an existing folder, or a hub id "owner/name" (downloaded).

    A bundled name wins over a folder so named (as `world` is beside this repository's own folder): say "./world" then.

    Raises:
        CheckpointError: there is no such folder, bundled name or hub id.
    """
    folder, bundled = Path(name), sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))
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
            f"model: {str(name)!r} is no folder here; to fetch it from the hub, pip install 'reelm[hub]'"
        ) from None
    try:
        # Only data is asked for: a repository's code or pickles never reach this machine.
        wanted = ["config.json", "*.safetensors", "text.model"]
        return Path(
            snapshot_download(
                str(name),
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=wanted,
            )
        )
    except Exception as error:
        raise CheckpointError(f"model: could not fetch {str(name)!r} from the hub: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON table in `path`, or a `CheckpointError` that says what is wrong with it."""
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


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a safetensors file, on the CPU."""
    if not path.is_file():
        raise CheckpointError(f"model: {path.name} must exist in the folder, got none in {str(path.parent)!r}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"model: {path.name} must be a whole safetensors file (pickled or truncated ones are refused): {error}"
        ) from error


def load_weights(module: torch.nn.Module, path: Path) -> None:
    """Load `path` into `module` after checking that names, shapes and kinds of dtype all agree.

    Raises:
        CheckpointError: a file, a tensor or a shape is missing, unexpected or wrong.
    """
    tensors = load_tensors(path)
    wanted = module.state_dict()
    missing, extra = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if missing or extra:
        raise CheckpointError(
            f"model: {path.name} must hold what its config asks for; missing {missing[:3]}, extra {extra[:3]}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"model: {path.name}: {name} must have shape {tuple(wanted[name].shape)}, got {tuple(tensor.shape)}"
            )
        if tensor.is_floating_point() != wanted[name].is_floating_point():
            raise CheckpointError(f"model: {path.name}: {name} must be {wanted[name].dtype}, got {tensor.dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"model: {path.name}: {name} must be finite, got NaN or infinity")
    module.load_state_dict(tensors)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    atomic_write(path, safetensors_bytes(plain, metadata))


def save_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON table atomically."""
    atomic_write(path, json.dumps(values, indent=2) + "\n")
