"""Read the tensors of a model in the layout of transformers: one safetensors file, or shards with an index.

shards = SafetensorsShards(Path("Emu3-Gen-hf"))
shards.names, shards.shape("lm_head.weight"), shards.dtype("lm_head.weight")       # nothing is read for these
shards.tensor("lm_head.weight")                                                    # one tensor at a time is in memory
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .checkpoint import read_json
from .errors import CheckpointError
from .streamed_tensors import DTYPES

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
_BY_NAME = {name: dtype for dtype, name in DTYPES.items()}


class SafetensorsShards:
    """The tensors of a folder by name.

    Attributes:
        files: The files that hold them.
    """

    def __init__(self, folder: Path) -> None:
        """Read the names, shapes and dtypes of the tensors.

        Raises:
            CheckpointError: A file is missing or damaged, or a shard lacks a tensor that the index says it has.
        """
        self._folder = folder
        index = folder / INDEX
        places: dict[str, str] = {}
        if index.is_file():
            found = read_json(index).get("weight_map")
            names = isinstance(found, dict) and all(isinstance(file, str) for file in found.values())
            if not names or not found:
                raise CheckpointError(f"source: {INDEX} must have a weight_map of tensors to files")
            assert isinstance(found, dict)
            places = {name: str(file) for name, file in found.items()}
        self.files = sorted(set(places.values())) or [ONE_FILE]
        for file in self.files:
            if Path(file).name != file or not file.endswith(".safetensors"):
                raise CheckpointError(f"source: {INDEX} must name safetensors files in its folder, got {file!r}")
        self._shapes: dict[str, tuple[str, tuple[int, ...], torch.dtype]] = {}
        for file in self.files:
            self._add(file)
        missing = sorted(name for name, file in places.items() if self._shapes.get(name, ("",))[0] != file)
        if missing:
            raise CheckpointError(f"source: {places[missing[0]]} must have the tensor {missing[0]}, as {INDEX} says")

    def _add(self, file: str) -> None:
        with self._open(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no dict)
                if name in self._shapes:
                    raise CheckpointError(f"source: must have each tensor once, got {name} twice")
                part = tensors.get_slice(name)
                if part.get_dtype() not in _BY_NAME:
                    raise CheckpointError(f"source: {name} must have a dtype of torch, got {part.get_dtype()}")
                self._shapes[name] = file, tuple(part.get_shape()), _BY_NAME[part.get_dtype()]

    def _open(self, file: str) -> Any:
        if not (self._folder / file).is_file():
            raise CheckpointError(f"source: must hold {file}, got none in {str(self._folder)!r}")
        try:
            return safe_open(self._folder / file, framework="pt")
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"source: {file} must be a whole safetensors file: {error}") from error

    @property
    def names(self) -> list[str]:
        """The names of the tensors."""
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._shapes[name][1]

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor."""
        return self._shapes[name][2]

    def tensor(self, name: str) -> torch.Tensor:
        """Read a tensor."""
        with self._open(self._shapes[name][0]) as tensors:  # opened anew, as closing gives back the memory of the last
            tensor: torch.Tensor = tensors.get_tensor(name)
            return tensor
