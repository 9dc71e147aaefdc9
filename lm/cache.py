"""The ring cache: keys and values of the prefix for ever, and of the last latent frames; allocated once.

    cache = RingCache(config, rows=2, device=device, dtype=dtype)
    slots = cache.slots(positions_BL)       # where the keys and values of these video positions lie
    out_BLNE = cached_attention(qkv_BLHE, q_norm_E, k_norm_E, step, **cache.layer(0))

In int8 every head of every slot has a scale beside it: with heads of 32 channels that takes 28% of the memory.

Memory does not grow with the clip. The ring is one latent frame longer than the window, so that a whole latent frame
can be read at once, or two (`ahead=2`).
"""

from collections.abc import Sequence
from typing import TypedDict

import torch

from ..core.protocols import CacheState
from ..core.token_history import TokenHistory, gather_rows
from ..kernels.quantize import quantise
from .lm_config import LMConfig

HELD = ("keys", "values", "key_scales", "value_scales")


class LayerCache(TypedDict):
    """The part of a cache that belongs to a layer, as `cached_attention` takes it."""

    k_cache_BKCE: torch.Tensor
    v_cache_BKCE: torch.Tensor
    k_scales_BKC: torch.Tensor | None
    v_scales_BKC: torch.Tensor | None


class RingCache(TokenHistory):
    """Keys, values and newest tokens of B rows, and how far each row has come.

    Attributes:
        keys, values: (depth, B, K, C, E), of C = prefix + ring slots.
        key_scales, value_scales: (depth, B, K, C) float32 of an int8 cache, else None.
        prefix_lengths_B: the valid slots of each row's prefix.
    """

    def __init__(
        self, config: LMConfig, rows: int, device: torch.device, dtype: torch.dtype, *, ahead: int = 1
    ) -> None:
        """Allocate a cache for steps that write up to `ahead` latent frames, wherever in one they begin."""
        super().__init__(rows, config.frame_size, device)
        self.config = config
        self.ring = config.ring(ahead)
        shape = (config.depth, rows, config.kv_heads, config.prefix + self.ring, config.head_dim)
        scales = (None, None) if dtype != torch.int8 else (shape[:-1], shape[:-1])
        self._allocated = {
            name: torch.zeros(size, device=device, dtype=torch.float32 if "scales" in name else dtype)
            for name, size in zip(HELD, (shape, shape, *scales), strict=True)
            if size is not None
        }
        self.prefix_lengths_B = torch.zeros(rows, device=device, dtype=torch.int64)
        self._show(rows)

    def _show(self, rows: int) -> None:
        """Have the first `rows` of the allocated rows be those that are there."""
        self._held = {name: held[:, :rows] for name, held in self._allocated.items()}
        self.keys, self.values = self._held["keys"], self._held["values"]
        self.key_scales, self.value_scales = self._held.get("key_scales"), self._held.get("value_scales")

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, and of their scales."""
        return sum(held.nbytes for held in self._allocated.values())

    def layer(self, layer: int) -> LayerCache:
        """The part of a layer."""
        return {
            "k_cache_BKCE": self.keys[layer],
            "v_cache_BKCE": self.values[layer],
            "k_scales_BKC": None if self.key_scales is None else self.key_scales[layer],
            "v_scales_BKC": None if self.value_scales is None else self.value_scales[layer],
        }

    def put_prefix(self, layer: int, rows_B: torch.Tensor, k_BKPE: torch.Tensor, v_BKPE: torch.Tensor) -> None:
        """Set the keys and values of the prefixes of these rows, in full precision."""
        both = (k_BKPE, self.keys, self.key_scales), (v_BKPE, self.values, self.value_scales)
        for x_BKPE, held, scales in both:
            whole_BKPE = x_BKPE
            if scales is not None:
                whole_BKPE, scales[layer, rows_B, :, : self.config.prefix] = quantise(x_BKPE)
            held[layer, rows_B, :, : self.config.prefix] = whole_BKPE

    def slots(self, positions_BL: torch.Tensor) -> torch.Tensor:
        """(B, L) cache slots of video positions."""
        return self.config.prefix + positions_BL % self.ring

    def arrange(self, sources: Sequence[int | None]) -> None:
        """Have as many rows as `sources` has entries: each is the old row of that number, or a fresh one for None.

        It happens in the memory that was allocated, as a second cache beside this one may not fit.
        """
        super().arrange(sources)
        self.prefix_lengths_B = gather_rows(self.prefix_lengths_B, sources)
        moves = [(row, source) for row, source in enumerate(sources) if source is not None and source != row]
        # Numbers ascend, so that no row is overwritten before it is read: those that move down go first, in order.
        down, up = ([move for move in moves if (move[1] > move[0]) == lower] for lower in (True, False))
        for held in self._allocated.values():
            for row, source in [*down, *reversed(up)]:
                held[:, row] = held[:, source]
        self._show(len(sources))

    def export(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """A copy of the prefixes, keys and values of these rows, on the CPU."""
        index = torch.tensor(rows, device=self.positions_B.device)
        parts = {"prefix_lengths": self.prefix_lengths_B[index]}
        parts |= {name: held[:, index] for name, held in self._held.items()}
        return {name: part.cpu() for name, part in parts.items()}

    def accepts(self, rows: int, state: CacheState) -> bool:
        """Whether `state` is of so many rows of a cache like this one, or of a longer or shorter ring."""
        if set(state) != {"prefix_lengths", *self._held}:
            return False
        lengths, config = state["prefix_lengths"], self.config
        slots = state["keys"].shape[3] if state["keys"].ndim == 5 else 0
        more, part = divmod(slots - config.prefix, config.frame_size)
        same = lengths.shape == (rows,) and lengths.dtype == torch.int64 and part == 0 and more > config.window
        for name, held in self._held.items():
            shape = (*held.shape[:1], rows, held.shape[2], slots, *held.shape[4:])
            same = same and state[name].shape == shape and state[name].dtype == held.dtype
        return same and bool((lengths >= 0).all() and (lengths <= config.prefix).all())

    def restore(self, rows: Sequence[int], state: CacheState, tokens_S: torch.Tensor) -> None:
        """Have these rows go on from an accepted state, after the tokens `tokens_S` of their clip."""
        index = torch.tensor(rows, device=self.positions_B.device)
        prefix, window = self.config.prefix, self.config.window * self.config.frame_size
        # The window alone: what is older nobody sees, and drafts may have been written over it.
        positions_S = torch.arange(max(0, len(tokens_S) - window), len(tokens_S))
        for name, held in self._held.items():
            given = state[name].to(held.device)
            old_S, new_S = ((prefix + positions_S % (x.shape[3] - prefix)).to(held.device) for x in (given, held))
            for place, row in enumerate(rows):
                held[:, row, :, :prefix] = given[:, place, :, :prefix]
                held[:, row][:, :, new_S] = given[:, place][:, :, old_S]
        self.prefix_lengths_B[index] = state["prefix_lengths"].to(index.device)
        self.place_tokens(rows, tokens_S)
