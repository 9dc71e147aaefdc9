"""Token shards: clips as token grids with captions, in safetensors files; where tokenizer and language model meet.

write_shard(folder / "clips-00000.safetensors", tokens_Bthw, captions, fps=8)
shards = read_shards(folder)
shards.tokens_Bthw[i], shards.captions[i]
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..core.checkpoint import load_tensors, save_tensors
from ..core.errors import CheckpointError, require


@dataclass(frozen=True)
class Shards:
    """Clips of one grid: tokens (N, t, h, w) int32, for each clip its captions, any of which tells it, and `fps`, the
    frames a second of all of them."""

    tokens_Bthw: torch.Tensor
    captions: list[list[str]]
    fps: float


def write_shard(
    path: Path, tokens_Bthw: torch.Tensor, captions: list[list[str]], *, fps: float, origin: str = ""
) -> None:
    """Write clips atomically; each has at least one caption. `origin`: what they were made from."""
    require(tokens_Bthw.ndim == 4, "tokens_Bthw", "must have 4 dimensions", tuple(tokens_Bthw.shape))
    require(len(captions) == len(tokens_Bthw), "captions", f"must be {len(tokens_Bthw)}, one a clip", len(captions))
    require(all(captions), "captions", "must name at least one caption a clip", "an empty list")
    text = torch.frombuffer(bytearray(json.dumps(captions).encode()), dtype=torch.uint8)
    save_tensors(
        path, {"tokens": tokens_Bthw.to(torch.int32), "captions": text}, {"origin": origin, "fps": repr(float(fps))}
    )


def shard_origin(path: Path) -> str | None:
    """What `write_shard` was told of a shard's origin; None where there is no such file, or no shard in it."""
    return _metadata(path).get("origin")


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def read_shards(folder: Path) -> list[Shards]:
    """All shards of a folder, those of the same grid joined; in the order of their names.

    Raises:
        CheckpointError: there is none, one is damaged, or they are of clips of several frame rates.
    """
    rates: dict[float, str] = {}
    parts: dict[tuple[int, ...], list[tuple[torch.Tensor, list[list[str]]]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_tensors(path)
        if set(tensors) != {"tokens", "captions"} or tensors["tokens"].ndim != 4:
            raise CheckpointError(f"data: {path.name} must be a token shard, got tensors {sorted(tensors)}")
        captions = json.loads(bytes(tensors["captions"].tolist()))
        if len(captions) != len(tensors["tokens"]):
            raise CheckpointError(f"data: {path.name} must have a caption list for each clip, got {len(captions)}")
        parts.setdefault(tuple(tensors["tokens"].shape[1:]), []).append((tensors["tokens"], captions))
        rates[float(_metadata(path).get("fps", "nan"))] = path.name
    if not parts:
        raise CheckpointError(f"data: must be a folder of token shards (*.safetensors), got {str(folder)!r}")
    (fps, *others) = rates
    if others or not fps > 0:
        raise CheckpointError(f"data: must be clips of one frame rate, got {', '.join(map(str, sorted(rates)))}")
    return [
        Shards(torch.cat([tokens for tokens, _ in group]), [c for _, captions in group for c in captions], fps)
        for group in parts.values()
    ]
