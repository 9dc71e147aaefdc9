"""A session: all that a clip goes on from, in one safetensors file: its tokens, its ring of keys and values, its plan.

    video.state.save("ball.safetensors")
    longer = generator.continue_clip(SessionState.load("ball.safetensors"), seconds=10)

A clip goes on from its tokens alone too, but then they are all read again. The ring makes that unnecessary: going on
takes the same time after an hour as after a second, and gives the tokens of a rollout that never stopped.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..core.checkpoint import save_tensors
from ..core.errors import ReelmError, require
from ..core.files import check_writable
from ..lm.cache import RingCache

FORMAT = "1"
RING = ("keys", "values", "prefix_lengths")
SCALES = ("key_scales", "value_scales")  # of a ring of int8


@dataclass(frozen=True, eq=False)
class SessionState:
    """A clip that can go on.

    Attributes:
        tokens_thw: all its tokens, int64.
        ring: `keys` and `values` (depth, R, K, C, E) and `prefix_lengths` (R,) of its rows of the cache, those of int8
            with `key_scales` and `value_scales` (depth, R, K, C); or empty: then the tokens are read again.
        prompt, seed: what it was drawn from.
        settings: as `Video.settings`.
    """

    tokens_thw: torch.Tensor
    ring: dict[str, torch.Tensor] = field(default_factory=dict)
    prompt: str = ""
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        kept = sum(tensor.nbytes for tensor in self.ring.values())
        return f"SessionState(tokens {tuple(self.tokens_thw.shape)}, ring {kept} bytes, prompt={self.prompt!r})"

    def save(self, path: str | Path) -> Path:
        """Write it atomically; the suffix must be .safetensors. Returns the path."""
        path = check_state_path(path)
        values = {"prompt": self.prompt, "seed": self.seed, "settings": self.settings}
        tensors = {"tokens": self.tokens_thw.to(torch.int32)} | self.ring
        save_tensors(path, tensors, {"reelm_session": FORMAT, "values": json.dumps(values)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> "SessionState":
        """Read what `save` wrote.

        Raises:
            ReelmError: there is no such file, or it is damaged or no session.
        """
        require(Path(path).is_file(), "session", "must be a file that exists", str(path))
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, ValueError) as error:
            raise ReelmError(f"session: {path} must be a whole safetensors file: {error}") from error
        written = metadata.get("reelm_session")
        require(written == FORMAT, "session", f"must be a session of format {FORMAT} of reelm", (str(path), written))
        try:
            values = json.loads(metadata["values"])
            state = cls(
                tensors.pop("tokens").long(), tensors, values["prompt"], values["seed"], dict(values["settings"])
            )
        except (KeyError, ValueError, TypeError) as error:
            raise ReelmError(f"session: {path} is damaged: {error!r}") from error
        whole = state.tokens_thw.ndim == 3 and 0 not in state.tokens_thw.shape and isinstance(state.prompt, str)
        require(whole, "session", "must hold tokens (t, h, w) and a prompt", str(path))
        whole = set(tensors) in (set(), {*RING}, {*RING, *SCALES})
        require(whole, "session", f"must hold {RING} (and {SCALES}) or none of them", sorted(tensors))
        return state


def check_state_path(path: str | Path) -> Path:
    """Refuse, before any work is done, a path that no session could be written to."""
    path = Path(path)
    require(path.suffix == ".safetensors", "session", "must be a .safetensors file", str(path))
    return check_writable(path, "session")


def read_ring(cache: RingCache, rows: Sequence[int]) -> dict[str, torch.Tensor]:
    """A copy of these rows of a cache, on the CPU."""
    index = torch.tensor(rows, device=cache.positions_B.device)
    parts = {"prefix_lengths": cache.prefix_lengths_B[index]}
    parts |= {name: held[:, index] for name, held in _held(cache).items()}
    return {name: part.cpu() for name, part in parts.items()}


def _held(cache: RingCache) -> dict[str, torch.Tensor]:
    """What a cache holds of keys and values, by name, with rows along the second axis."""
    found = {name: getattr(cache, name) for name in (*RING[:2], *SCALES)}
    return {name: held for name, held in found.items() if held is not None}


def ring_fits(cache: RingCache, rows: int, ring: dict[str, torch.Tensor]) -> bool:
    """Whether `ring` was read from so many rows of a cache like this one, or of a longer or shorter ring."""
    held = _held(cache)
    if set(ring) != {"prefix_lengths", *held}:
        return False
    lengths = ring["prefix_lengths"]
    same = lengths.shape == (rows,) and lengths.dtype == torch.int64
    config, slots = cache.config, ring["keys"].shape[3] if ring["keys"].ndim == 5 else 0
    more, part = divmod(slots - config.prefix, config.frame_size)
    same = same and part == 0 and more > config.window
    for name, tensor in held.items():
        shape = (*tensor.shape[:1], rows, tensor.shape[2], slots, *tensor.shape[4:])
        same = same and ring[name].shape == shape and ring[name].dtype == tensor.dtype
    return same and bool((lengths >= 0).all() and (lengths <= cache.config.prefix).all())


def write_ring(cache: RingCache, rows: Sequence[int], ring: dict[str, torch.Tensor], tokens_S: torch.Tensor) -> None:
    """Put a ring that fits back, so that these rows go on after the tokens `tokens_S` of their clip."""
    index = torch.tensor(rows, device=cache.positions_B.device)
    prefix, window = cache.config.prefix, cache.config.window * cache.config.frame_size
    # The window alone: what is older nobody sees, and drafts may have been written over it.
    positions_W = torch.arange(max(0, len(tokens_S) - window), len(tokens_S))
    for name, held in _held(cache).items():
        given = ring[name].to(held.device)
        old_W, new_W = ((prefix + positions_W % (x.shape[3] - prefix)).to(held.device) for x in (given, held))
        for place, row in enumerate(rows):
            held[:, row, :, :prefix] = given[:, place, :, :prefix]
            held[:, row][:, :, new_W] = given[:, place][:, :, old_W]
    cache.prefix_lengths_B[index] = ring["prefix_lengths"].to(index.device)
    cache.positions_B[index] = len(tokens_S)
    kept = cache.tokens_BR.shape[1]
    positions_K = torch.arange(max(0, len(tokens_S) - kept), len(tokens_S))
    cache.tokens_BR[index[:, None], (positions_K % kept).to(index.device)] = tokens_S[positions_K].to(index.device)
