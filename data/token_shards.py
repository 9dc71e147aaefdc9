"""Token shards: captioned clips as token grids in safetensors files, the training data of the language model.

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
    """Clips of one token grid.

    Attributes:
        tokens_Bthw: The tokens of the clips, int32.
        captions: The captions of each clip, each of which describes all of it.
        fps: The frames per second of all clips.
    """

    tokens_Bthw: torch.Tensor
    captions: list[list[str]]
    fps: float


def write_shard(
    path: Path, tokens_Bthw: torch.Tensor, captions: list[list[str]], *, fps: float, origin: str = ""
) -> None:
    """Write a token shard atomically.

    Args:
        path: The path of the shard.
        tokens_Bthw: The tokens of the clips.
        captions: The captions of each clip, at least one.
        fps: The frames per second of the clips.
        origin: A description of what the tokens were made from, which `shard_origin` returns.

    Raises:
        ReelmError: The tokens are not 4-dimensional, or there is not at least one caption for each clip.
    """
    require(tokens_Bthw.ndim == 4, "tokens_Bthw", "must have 4 dimensions", tuple(tokens_Bthw.shape))
    require(len(captions) == len(tokens_Bthw), "captions", f"must be {len(tokens_Bthw)}, one a clip", len(captions))
    require(all(captions), "captions", "must name at least one caption a clip", "an empty list")
    text = torch.frombuffer(bytearray(json.dumps(captions).encode()), dtype=torch.uint8)
    save_tensors(
        path, {"tokens": tokens_Bthw.to(torch.int32), "captions": text}, {"origin": origin, "fps": repr(float(fps))}
    )


def shard_origin(path: Path) -> str | None:
    """Return the `origin` that `write_shard` stored in a shard, or None if there is no such file or it is no shard."""
    return _metadata(path).get("origin")


def is_token_folder(folder: Path) -> bool:
    """Return whether a folder has token shards; sessions that lie among clips are none."""
    return any({"origin", "fps"} <= set(_metadata(path)) for path in folder.glob("*.safetensors"))


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def read_shards(folder: Path) -> list[Shards]:
    """Return the clips of all shards of a folder, in the order of the file names, with one `Shards` per token grid.

    Raises:
        CheckpointError: There is no shard, one is damaged, or the clips have several frame rates.
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
