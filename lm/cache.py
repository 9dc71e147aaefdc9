"""The ring cache: keys and values of the prefix for ever, and of the last latent frames; allocated once.

    cache = RingCache(config, batch=2, device=device, dtype=dtype)
    slots = cache.slots(positions_BL)       # where the keys and values of these video positions lie
    q, q_prefix = rope_norm_cache(qkv, q_norm, k_norm, slots, **cache.layer(0), rotation=rotation)

With dtype int8 every head of every slot has a scale beside it: with heads of 32 channels 28% of the memory.

Memory does not grow with the clip. The ring is one latent frame longer than the window, so that a whole latent frame
can be fed at once, or two (`ahead=2`); the newest tokens are kept too, since a token's input is made of its neighbours'
tokens.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..core.errors import require
from ..kernels.int8 import quantise

if TYPE_CHECKING:
    from .transformer import LMConfig

HISTORY = 4  # latent frames of token ids that are kept


class RingCache:
    """Keys, values and newest tokens of B rows, and how far each row is.

    `ahead`: latent frames that a step may write at a time, wherever in one it begins.
    """

    def __init__(
        self, config: "LMConfig", batch: int, device: torch.device, dtype: torch.dtype, *, ahead: int = 1
    ) -> None:
        self.config = config
        self.ring = (config.window + ahead) * config.frame_size
        shape = (config.depth, batch, config.kv_heads, config.prefix + self.ring, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.key_scales, self.value_scales = (
            torch.zeros(shape[:-1], device=device) if dtype == torch.int8 else None for _ in range(2)
        )
        self.tokens_BR = torch.zeros(batch, HISTORY * config.frame_size, device=device, dtype=torch.int64)
        self.positions_B = torch.zeros(batch, device=device, dtype=torch.int64)
        self.prefix_lengths_B = torch.zeros(batch, device=device, dtype=torch.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, and of their scales."""
        scales = 0 if self.key_scales is None else self.key_scales.nbytes
        return 2 * (self.keys.nbytes + scales)

    def layer(self, layer: int) -> dict[str, Any]:
        """The part of a layer, as `rope_norm_cache` and `decode_attention` take it."""
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

    def next_positions(self, count: int, offsets: Sequence[int] | None = None) -> torch.Tensor:
        """(B, L) the L = `count` video positions that come next, or those that lie so far ahead."""
        device = self.positions_B.device
        ahead_L = torch.arange(count, device=device) if offsets is None else torch.tensor(offsets, device=device)
        return self.positions_B[:, None] + ahead_L

    def put_tokens(self, tokens_BL: torch.Tensor, offsets: Sequence[int] | None = None) -> None:
        """Set the tokens at the next L positions, or at those so far ahead; `advance` makes them past."""
        positions_BL = self.next_positions(tokens_BL.shape[1], offsets)
        self.tokens_BR.scatter_(1, positions_BL % self.tokens_BR.shape[1], tokens_BL)

    def tokens(self, positions_BL: torch.Tensor, rows: int) -> torch.Tensor:
        """The tokens (B, L) at these positions of the first B = `rows` rows, as far as they are kept."""
        return self.tokens_BR[:rows].gather(1, positions_BL % self.tokens_BR.shape[1])

    def select(self, rows: Sequence[int]) -> "RingCache":
        """A cache of these rows alone, ascending, in the memory of this one, which must not be used any more."""
        require(list(rows) == sorted(set(rows)), "rows", "must ascend", rows)
        other = copy.copy(self)
        index = torch.tensor(rows, device=self.positions_B.device)
        for name in ("keys", "values", "key_scales", "value_scales"):
            held = getattr(self, name)
            if held is not None:
                # In place: a second cache beside this one may not fit.
                for place, row in enumerate(rows):
                    if place != row:
                        held[:, place] = held[:, row]
                held = held[:, : len(rows)]
            setattr(other, name, held)
        for name in ("tokens_BR", "positions_B", "prefix_lengths_B"):
            setattr(other, name, getattr(self, name)[index])
        return other

    def advance(self, count: int | torch.Tensor) -> None:
        """Move on by `count` positions (one number, or one for each row)."""
        self.positions_B += count

    def slots(self, positions_BL: torch.Tensor) -> torch.Tensor:
        """(B, L) cache slots of video positions."""
        return self.config.prefix + positions_BL % self.ring
