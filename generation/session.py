"""A session: everything that a clip is continued from, in one safetensors file: tokens, cache state and plan.

    video.state.save("ball.safetensors")
    longer = generator.continue_clip(SessionState.load("ball.safetensors"), seconds=10)

A clip can be continued from its tokens alone, but then they are all read again. With the cache state they are not:
continuing takes the same time after an hour as after a second, and gives the tokens of a clip that never stopped.
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import torch
from safetensors import SafetensorError, safe_open

from ..core.checkpoint import save_tensors
from ..core.condition import Condition, Embedding, FrameRole, Frames, Text
from ..core.errors import ReelmError, require
from ..core.files import as_path, check_replaceable, check_writable
from ..core.json_values import Json
from ..core.modes import in_plain_modes
from ..sampling.plan import ClipPlan

FORMAT = "3"


@dataclass(frozen=True, eq=False)
class SessionState:
    """A clip that can be continued.

    Attributes:
        tokens_thw: All its video tokens, int64.
        segments: The tokens (t, *shape) of the other segments of its latent frames, by name.
        cache: The state of its rows of the model's cache, or an empty dictionary: then its tokens are read again.
        conditions: The conditions of the clip in addition to its prompt.
        prompt: The prompt at its end.
        seed: The seed of its noise.
        settings: The settings it was drawn with, as in `Video.settings`.
    """

    tokens_thw: torch.Tensor
    segments: dict[str, torch.Tensor] = field(default_factory=dict)
    cache: dict[str, torch.Tensor] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    prompt: str = ""
    seed: int | None = None
    settings: Json = field(default_factory=dict)

    def __repr__(self) -> str:
        kept = sum(tensor.nbytes for tensor in self.cache.values())
        return f"SessionState(tokens {tuple(self.tokens_thw.shape)}, cache {kept} bytes, prompt={self.prompt!r})"

    @classmethod
    def from_plan(
        cls, plan: ClipPlan, grids: Mapping[str, torch.Tensor], cache: dict[str, torch.Tensor], settings: Json
    ) -> "SessionState":
        """Return the session of a clip with this plan, the tokens (t, *shape) of all segments, and this cache state."""
        segments = {name: tokens for name, tokens in grids.items() if name != "video"}
        prompt, seed = plan.last_prompt, plan.key.seed
        return cls(grids["video"], segments, cache, plan.conditions, prompt, seed, settings)

    @property
    def grids(self) -> dict[str, torch.Tensor]:
        """The tokens of all segments by name, which `FrameLayout.pack` takes."""
        return {"video": self.tokens_thw, **self.segments}

    @property
    def planned(self) -> int | None:
        """The latent frames that the clip was to have when it was drawn; None where it has no end or none is known."""
        planned = self.settings.get("latent_frames")
        return planned if type(planned) is int and planned > 0 else None

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the session atomically to a .safetensors file, and return the path.

        Args:
            path: The file.
            overwrite: Whether a file that is not a session of reelm may be replaced.

        Raises:
            ReelmError: The path cannot be written, or a file there would be lost.
        """
        path = check_state_path(path, overwrite=overwrite)
        values = {"prompt": self.prompt, "seed": self.seed, "settings": self.settings,
                  "conditions": [condition.kind for condition in self.conditions]}  # fmt: skip
        tensors = {"tokens": self.tokens_thw.to(torch.int32)}
        tensors |= {f"segment.{name}": tokens.to(torch.int32) for name, tokens in self.segments.items()}
        tensors |= {f"cache.{name}": tensor for name, tensor in self.cache.items()}
        tensors |= {f"condition.{n}": _tensor_of(condition).clone() for n, condition in enumerate(self.conditions)}
        text = json.dumps(values)
        save_tensors(path, tensors, {"reelm_session": FORMAT, "values": text, "sha256": _digest(tensors, text)})
        return path

    @classmethod
    @in_plain_modes
    def load(cls, path: str | Path, argument: str = "session") -> "SessionState":
        """Read a session that `save` has written.

        Args:
            path: The file.
            argument: The name of the session in error messages.

        Raises:
            ReelmError: There is no such file, it is no session, or it is damaged: one byte that differs is enough.
        """
        named = isinstance(path, str | os.PathLike)
        require(named, argument, "must be a session or the path of one", type(path).__name__)
        require(Path(path).is_file(), argument, "must be a file that exists", str(path))
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, ValueError, AttributeError, RuntimeError) as error:
            # A damaged name of a type is no type of torch, which is an AttributeError.
            raise ReelmError(f"{argument}: {path} must be a whole safetensors file: {error}") from error
        written = metadata.get("reelm_session")
        rule = f"{path} must be a session of format {FORMAT} of reelm"
        require(written == FORMAT, argument, rule, written)
        same = metadata.get("sha256") == _digest(tensors, metadata.get("values", "")) and _is_padded(Path(path))
        if not same:
            raise ReelmError(f"{argument}: {path} is damaged: its contents are not those that were saved")
        try:
            values = json.loads(metadata["values"])
            parts = {kind: _named(tensors, f"{kind}.") for kind in ("segment", "cache", "condition")}
            kinds = enumerate(values["conditions"])
            state = cls(
                tensors.pop("tokens").long(),
                {name: tokens.long() for name, tokens in parts["segment"].items()},
                parts["cache"],
                tuple(_condition_of(kind, parts["condition"][str(n)], argument) for n, kind in kinds),
                values["prompt"], values["seed"], dict(values["settings"]),
            )  # fmt: skip
        except (KeyError, ValueError, TypeError) as error:
            raise ReelmError(f"{argument}: {path} is damaged: {error!r}") from error
        whole = state.tokens_thw.ndim == 3 and 0 not in state.tokens_thw.shape and isinstance(state.prompt, str)
        require(whole, argument, "must hold tokens (t, h, w) and a prompt", str(path))
        return state


def _digest(tensors: Mapping[str, torch.Tensor], values: str) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of all tensors, and of the values."""
    found = hashlib.sha256(values.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _is_padded(path: Path) -> bool:
    """Return whether the header of a safetensors file ends in nothing but spaces, as written."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return file.read(length).rstrip(b" ").endswith(b"}")


def _named(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _tensor_of(condition: Condition) -> torch.Tensor:
    if isinstance(condition, Text):
        return torch.frombuffer(bytearray(condition.text.encode() or b"\0"), dtype=torch.uint8)
    return condition.frames_THW3 if isinstance(condition, Frames) else condition.states_SD


def _condition_of(kind: str, tensor: torch.Tensor, argument: str) -> Condition:
    if kind == "text":
        return Text(bytes(tensor.tolist()).rstrip(b"\0").decode())
    if kind == "embedding":
        return Embedding(tensor)
    for role in get_args(FrameRole):
        if kind == f"frames:{role}":
            return Frames(tensor, role)
    raise ReelmError(f"{argument}: must have conditions that are known, got {kind!r}")


def check_state_path(path: str | Path, *, overwrite: bool = False, inputs: Sequence[object] = ()) -> Path:
    """Return a path to which a session can be written; refuse any other path before work is done.

    Args:
        path: The file.
        overwrite: Whether a file that is not a session of reelm may be replaced.
        inputs: What the session is made from; those that are paths are never replaced.

    Raises:
        ReelmError: The path cannot be written, or a file there would be lost.
    """
    path = as_path(path, "session")
    require(path.suffix == ".safetensors", "session", "must be a .safetensors file", str(path))
    require(not path.is_dir(), "session", "must not be a folder", str(path))
    check_replaceable(path, _is_own, overwrite=overwrite, inputs=inputs, argument="session")
    return check_writable(path, "session")


def _is_own(path: Path) -> bool:
    """Return whether a file is a session of reelm."""
    try:
        with safe_open(path, framework="pt") as file:
            return "reelm_session" in (file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return False
