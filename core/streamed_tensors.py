"""Write a safetensors file tensor by tensor, so that memory never holds two of them, and go on after an interruption.

    tensors = [StreamedTensor("head.weight", torch.bfloat16, (64000, 4096), (read_head,)), …]
    write_tensors(folder / "lm.safetensors", tensors, source="what they are read from")

The format is a header with the place of each tensor, and then their bytes (huggingface.co/docs/safetensors). The header
follows from names, dtypes and shapes alone, so that it is written first. A second file says how many tensors are on the
disk; it is removed at the end, and a file beside which it stands is not whole.
"""

import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .checkpoint import save_json
from .errors import CheckpointError
from .progress import progress

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
WRITTEN = ".written.json"


@dataclass(frozen=True)
class StreamedTensor:
    """A tensor that is read when it is written.

    Attributes:
        name: Its name.
        dtype: Its dtype.
        shape: Its shape.
        parts: Functions that read it, each some of its rows, in their order.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    parts: tuple[Callable[[], torch.Tensor], ...]

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(path: Path, tensors: Sequence[StreamedTensor], *, source: str) -> int:
    """Write a safetensors file, and return how many of its tensors an interrupted call had written.

    Args:
        path: The file, in a folder that is not used before it is whole.
        tensors: The tensors.
        source: What they are read from: a file that was begun from the same source is gone on with.

    Raises:
        CheckpointError: A part has other numbers than its tensor says, or some that are not finite.
    """
    header, written_file = _header(tensors), path.with_name(path.name + WRITTEN)
    done = _done(path, written_file, header, source)
    if not done:
        written_file.unlink(missing_ok=True)  # before: it may tell of another source's tensors
        path.write_bytes(header)
    with path.open("r+b") as file:
        place = len(header) + sum(tensor.nbytes for tensor in tensors[:done])
        file.truncate(place)
        file.seek(place)
        for count, tensor in enumerate(progress(tensors[done:], "writing tensors", unit="tensor"), done + 1):
            for part in _bytes(tensor):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            save_json(written_file, {"source": source, "tensors": count})
    written_file.unlink()
    return done


def _header(tensors: Sequence[StreamedTensor]) -> bytes:
    entries, place = {}, 0
    for tensor in tensors:
        offsets = [place, place + tensor.nbytes]
        entries[tensor.name] = {"dtype": DTYPES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": offsets}
        place += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _done(path: Path, written_file: Path, header: bytes, source: str) -> int:
    """Return how many tensors are on the disk already; 0 for what was begun otherwise, or not at all."""
    try:
        written = json.loads(written_file.read_text())
        with path.open("rb") as file:
            same = file.read(len(header)) == header and written["source"] == source
        return int(written["tensors"]) if same else 0
    except (OSError, ValueError, LookupError, TypeError):
        return 0


def _bytes(tensor: StreamedTensor) -> Iterator[memoryview]:
    """Yield the bytes of a tensor, part by part."""
    rows, shape = 0, tensor.shape or (1,)  # a single number is a row
    for read in tensor.parts:
        part = read()
        part = part if part.ndim else part[None]
        fits = part.dtype == tensor.dtype and part.shape[1:] == shape[1:]
        if not fits:
            raise CheckpointError(
                f"{tensor.name}: must be {tensor.dtype} {tensor.shape}, got {part.dtype} {part.shape}"
            )
        if part.is_floating_point() and not bool(part.sum(dtype=torch.float64).isfinite()):
            raise CheckpointError(f"{tensor.name}: must be finite, got NaN or infinity")
        rows += len(part)
        yield part.contiguous().view(torch.uint8).flatten().numpy().data
    if rows != shape[0]:
        raise CheckpointError(f"{tensor.name}: must have {shape[0]} rows, got {rows}")
