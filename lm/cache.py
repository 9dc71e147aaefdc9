"""The ring cache: keys and values of the prefix and of the last latent frames, allocated once.

    cache = RingCache(config, rows=2, device=device, dtype=dtype)
    slots = cache.slots(positions_BL)       # the cache slots of these video positions
    out_BLNE = cached_attention(qkv_BLJE, q_norm_E, k_norm_E, step, **cache.layer(0))

In int8 every head of every slot also has a scale: with heads of 32 channels such a cache takes 28% of the memory of one
in float32.

Memory does not grow with the clip. The ring is one latent frame longer than the window (two with `ahead=2`), so that
one pass can process a whole latent frame (or two).
"""

from collections.abc import Sequence
from typing import TypedDict

import torch

from ..core.protocols import CacheState
from ..core.token_history import TokenHistory, gather_rows
from ..kernels.quantize import quantize
from .sizes import CacheSizes

TENSOR_NAMES = ("keys", "values", "key_scales", "value_scales")


class LayerCache(TypedDict):
    """The part of a cache that belongs to one layer: the arguments of `cached_attention`."""

    k_cache_BKCE: torch.Tensor
    v_cache_BKCE: torch.Tensor
    k_scales_BKC: torch.Tensor | None
    v_scales_BKC: torch.Tensor | None


class RingCache(TokenHistory):
    """Keys, values and newest tokens of B rows, and the position of each row.

    Attributes:
        keys, values: The keys and values (depth, B, K, C, E), with C = prefix + ring slots.
        key_scales, value_scales: The scales (depth, B, K, C) float32 of an int8 cache, else None.
        prefix_lengths_B: The number of valid prefix slots of each row.
    """

    def __init__(
        self, config: CacheSizes, rows: int, device: torch.device, dtype: torch.dtype, *, ahead: int = 1
    ) -> None:
        """Allocate a cache for passes over up to `ahead` latent frames that begin at any position in a latent frame."""
        super().__init__(rows, config.frame_size, device)
        self.config = config
        self.ring = config.ring(ahead)
        shape = (config.depth, rows, config.kv_heads, config.prefix + self.ring, config.head_dim)
        scales = (None, None) if dtype != torch.int8 else (shape[:-1], shape[:-1])
        self._allocated = {
            name: torch.zeros(size, device=device, dtype=torch.float32 if "scales" in name else dtype)
            for name, size in zip(TENSOR_NAMES, (shape, shape, *scales), strict=True)
            if size is not None
        }
        self.prefix_lengths_B = torch.zeros(rows, device=device, dtype=torch.int64)
        self._use_rows(rows)

    def _use_rows(self, rows: int) -> None:
        """Use the first `rows` of the allocated rows."""
        self._tensors = {name: tensor[:, :rows] for name, tensor in self._allocated.items()}
        self.keys, self.values = self._tensors["keys"], self._tensors["values"]
        self.key_scales, self.value_scales = self._tensors.get("key_scales"), self._tensors.get("value_scales")
        # Views of each layer, made once: passes ask for them in every layer.
        self._layers: list[LayerCache] = [
            {
                "k_cache_BKCE": self.keys[layer],
                "v_cache_BKCE": self.values[layer],
                "k_scales_BKC": None if self.key_scales is None else self.key_scales[layer],
                "v_scales_BKC": None if self.value_scales is None else self.value_scales[layer],
            }
            for layer in range(self.config.depth)
        ]

    @property
    def nbytes(self) -> int:
        """The bytes of the keys, values and scales."""
        return sum(tensor.nbytes for tensor in self._allocated.values())

    def layer(self, layer: int) -> LayerCache:
        """Return the part of the cache that belongs to a layer."""
        return self._layers[layer]

    def put_prefix(self, layer: int, rows_B: torch.Tensor, k_BKPE: torch.Tensor, v_BKPE: torch.Tensor) -> None:
        """Write the keys and values of the prefixes of these rows, which are given in full precision."""
        both = (k_BKPE, self.keys, self.key_scales), (v_BKPE, self.values, self.value_scales)
        for x_BKPE, target, scales in both:
            stored_BKPE = x_BKPE
            if scales is not None:
                stored_BKPE, scales[layer, rows_B, :, : self.config.prefix] = quantize(x_BKPE)
            target[layer, rows_B, :, : self.config.prefix] = stored_BKPE

    def slots(self, positions_BL: torch.Tensor) -> torch.Tensor:
        """Return the cache slots (B, L) of video positions."""
        return self.config.prefix + positions_BL % self.ring

    def arrange(self, sources: Sequence[int | None]) -> None:
        """Rearrange the rows: row i becomes the old row `sources[i]`, or an empty row for None.

        Rows move within the allocated memory, as there may be no space for a second cache.
        """
        super().arrange(sources)
        self.prefix_lengths_B = gather_rows(self.prefix_lengths_B, sources)
        moves = [(row, source) for row, source in enumerate(sources) if source is not None and source != row]
        # Sources ascend, so that no row is overwritten before it is read when rows that move down are copied first, in
        # order, and then rows that move up, in reverse order.
        down, up = ([move for move in moves if (move[1] > move[0]) == lower] for lower in (True, False))
        for tensor in self._allocated.values():
            for row, source in [*down, *reversed(up)]:
                tensor[:, row] = tensor[:, source]
        self._use_rows(len(sources))

    def export(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return a copy, on the CPU, of the prefix lengths, keys and values of these rows."""
        rows_B = torch.tensor(rows, device=self.positions_B.device)
        parts = {"prefix_lengths": self.prefix_lengths_B[rows_B]}
        parts |= {name: tensor[:, rows_B] for name, tensor in self._tensors.items()}
        return {name: part.cpu() for name, part in parts.items()}

    def accepts(self, rows: int, state: CacheState) -> bool:
        """Return whether `state` holds `rows` rows of a cache like this one, whose ring may be longer or shorter."""
        if set(state) != {"prefix_lengths", *self._tensors}:
            return False
        lengths, config = state["prefix_lengths"], self.config
        slots = state["keys"].shape[3] if state["keys"].ndim == 5 else 0
        frames, remainder = divmod(slots - config.prefix, config.frame_size)
        fits = lengths.shape == (rows,) and lengths.dtype == torch.int64 and remainder == 0 and frames > config.window
        for name, tensor in self._tensors.items():
            shape = (*tensor.shape[:1], rows, tensor.shape[2], slots, *tensor.shape[4:])
            fits = fits and state[name].shape == shape and state[name].dtype == tensor.dtype
        return fits and bool((lengths >= 0).all() and (lengths <= config.prefix).all())

    def slots_to_restore(self, tokens: int) -> torch.Tensor:
        """Return the positions in the ring of the window of a clip of so many tokens.

        Only these are copied: no token attends to older slots, which drafts may have overwritten.
        """
        return torch.arange(max(0, tokens - self.config.window * self.config.frame_size), tokens)

    def restore(self, rows: Sequence[int], state: CacheState, tokens_S: torch.Tensor) -> None:
        """Set these rows to an accepted state, at the end of the tokens `tokens_S` of their clip."""
        rows_B = torch.tensor(rows, device=self.positions_B.device)
        prefix = self.config.prefix
        positions_S = self.slots_to_restore(len(tokens_S))
        for name, tensor in self._tensors.items():
            saved = state[name].to(tensor.device)
            old_S, new_S = ((prefix + positions_S % (x.shape[3] - prefix)).to(tensor.device) for x in (saved, tensor))
            for index, row in enumerate(rows):
                tensor[:, row, :, :prefix] = saved[:, index, :, :prefix]
                tensor[:, row][:, :, new_S] = saved[:, index][:, :, old_S]
        self.prefix_lengths_B[rows_B] = state["prefix_lengths"].to(rows_B.device)
        self.restore_tokens(rows, tokens_S)
