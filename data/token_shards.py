"""Token shards: captioned clips as token grids in safetensors files, the training data of the language model.

write_shard(folder / "clips-00000.safetensors", tokens_Bthw, captions, fps=8)
shards = read_shards(folder)
shards.tokens_Bthw[i], shards.captions[i]

Clips may have control tokens, a grid for each segment of a `Controller` (core/controls.py). They are stored as tensors
"control.NAME", and the controller as JSON in the metadata.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..core.checkpoint import load_tensors, save_tensors
from ..core.config import from_dict, to_dict
from ..core.controls import NO_CONTROLLER, Controller
from ..core.errors import CheckpointError, require

CONTROL = "control."  # before the name of a segment


@dataclass(frozen=True)
class Shards:
    """Clips of one token grid.

    Attributes:
        tokens_Bthw: The tokens of the clips, int32.
        captions: The captions of each clip, each of which describes all of it.
        fps: The frames per second of all clips.
        controls: The control tokens (B, t, pictures) of the clips, int32, by segment of the controller.
        controller: The keys and axes that these tokens stand for; it has none where clips have no controls.
    """

    tokens_Bthw: torch.Tensor
    captions: list[list[str]]
    fps: float
    controls: dict[str, torch.Tensor] = field(default_factory=dict)
    controller: Controller = NO_CONTROLLER


def write_shard(
    path: Path,
    tokens_Bthw: torch.Tensor,
    captions: list[list[str]],
    *,
    fps: float,
    origin: str = "",
    controls: Mapping[str, torch.Tensor] | None = None,
    controller: Controller = NO_CONTROLLER,
) -> None:
    """Write a token shard atomically.

    Args:
        path: The path of the shard.
        tokens_Bthw: The tokens of the clips.
        captions: The captions of each clip, at least one.
        fps: The frames per second of the clips.
        origin: A description of what the tokens were made from, which `shard_origin` returns.
        controls: The control tokens (B, t, pictures) of the clips, by segment of the controller.
        controller: The keys and axes that these tokens stand for.

    Raises:
        ReelmError: The tokens are not 4-dimensional, there is not at least one caption for each clip, or the control
            tokens are not those of the controller.
    """
    controls = controls or {}
    require(tokens_Bthw.ndim == 4, "tokens_Bthw", "must have 4 dimensions", tuple(tokens_Bthw.shape))
    require(len(captions) == len(tokens_Bthw), "captions", f"must be {len(tokens_Bthw)}, one a clip", len(captions))
    require(all(captions), "captions", "must name at least one caption a clip", "an empty list")
    shapes = {name: tuple(grid.shape) for name, grid in controls.items()}
    wanted = _control_shapes(controller, tokens_Bthw)
    require(shapes == wanted, "controls", f"must have the shapes {wanted}", shapes)
    for segment in controller.segments:
        known = bool(((controls[segment.name] >= 0) & (controls[segment.name] < segment.vocab_size)).all())
        rule = f"must have tokens from 0 to {segment.vocab_size - 1}"
        require(known, f"controls[{segment.name!r}]", rule, controls[segment.name].tolist())
    text = torch.frombuffer(bytearray(json.dumps(captions).encode()), dtype=torch.uint8)
    tensors = {"tokens": tokens_Bthw.to(torch.int32), "captions": text}
    tensors |= {CONTROL + name: grid.to(torch.int32) for name, grid in controls.items()}
    metadata = {"origin": origin, "fps": repr(float(fps))}
    metadata |= {"controller": json.dumps(to_dict(controller))} if controller else {}
    save_tensors(path, tensors, metadata)


def _control_shapes(controller: Controller, tokens_Bthw: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the control tokens of clips, by segment."""
    return {segment.name: (*tokens_Bthw.shape[:2], *segment.shape) for segment in controller.segments}


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
        CheckpointError: There is no shard, one is damaged, or the clips have several frame rates or controllers.
    """
    parts: dict[tuple[int, ...], list[Shards]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        shard = _read_shard(path)
        parts.setdefault(tuple(shard.tokens_Bthw.shape[1:]), []).append(shard)
    every = [shard for group in parts.values() for shard in group]
    if not every:
        raise CheckpointError(f"data: must be a folder of token shards (*.safetensors), got {str(folder)!r}")
    rates = sorted({shard.fps for shard in every})
    if len(rates) > 1 or not rates[0] > 0:
        raise CheckpointError(f"data: must be clips of one frame rate, got {', '.join(map(str, rates))}")
    controllers = list(dict.fromkeys(shard.controller for shard in every))
    if len(controllers) > 1:
        told = ", ".join(map(repr, controllers[:2]))
        raise CheckpointError(f"data: must be clips of one controller (encode them all anew), got {told}")
    return [
        Shards(
            torch.cat([shard.tokens_Bthw for shard in group]),
            [texts for shard in group for texts in shard.captions],
            rates[0],
            {name: torch.cat([shard.controls[name] for shard in group]) for name in group[0].controls},
            controllers[0],
        )
        for group in parts.values()
    ]


def _read_shard(path: Path) -> Shards:
    """Return the clips of one shard; their frame rate is NaN where the file has none.

    Raises:
        CheckpointError: The file is damaged, or no token shard.
    """
    tensors, metadata = load_tensors(path), _metadata(path)
    try:
        controller = from_dict(Controller, json.loads(metadata.get("controller", "{}")), "controller")
    except ValueError as error:
        raise CheckpointError(f"data: {path.name} must have a controller that can be read, got {error}") from error
    names = {segment.name: CONTROL + segment.name for segment in controller.segments}
    if set(tensors) != {"tokens", "captions", *names.values()} or tensors["tokens"].ndim != 4:
        raise CheckpointError(f"data: {path.name} must be a token shard, got tensors {sorted(tensors)}")
    captions = json.loads(bytes(tensors["captions"].tolist()))
    if len(captions) != len(tensors["tokens"]):
        raise CheckpointError(f"data: {path.name} must have a caption list for each clip, got {len(captions)}")
    controls = {name: tensors[stored] for name, stored in names.items()}
    shapes = {name: tuple(grid.shape) for name, grid in controls.items()}
    if shapes != _control_shapes(controller, tensors["tokens"]):
        raise CheckpointError(f"data: {path.name} must have control tokens for each latent frame, got shapes {shapes}")
    return Shards(tensors["tokens"], captions, float(metadata.get("fps", "nan")), controls, controller)
