"""The cache of Cosmos-Predict1's models: a ring of latent frames, and before it what every later token goes on seeing.

    cache = CosmosCache(config, rows=2, device=device, dtype=dtype)
    cache.put_context([0], keys_LBKPE, values_LBKPE)         # of the text embeddings, in every block
    cache.advance(1)                                         # a first latent frame that is complete is kept for good

A token's keys and values are computed when the token after it is predicted, so that those of position p are in the slot
of position p, and a row that predicts position p computes those of p - 1.
"""

from collections.abc import Sequence

import torch

from ..core.protocols import CacheState
from ..core.token_history import gather_rows
from .cache import RingCache
from .cosmos_lm_config import CosmosLMConfig

CONTEXT = ("context_keys", "context_values")


class CosmosCache(RingCache):
    """A ring cache whose prefix is the first latent frame, or the begin token of a model that reads text.

    Attributes:
        context_keys, context_values: The keys and values (depth, B, K, P, E) of the text embeddings of each row; None
            for a model that reads none.
    """

    def __init__(
        self, config: CosmosLMConfig, rows: int, device: torch.device, dtype: torch.dtype, *, ahead: int = 1,
        context_dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        """Allocate a cache for passes over up to `ahead` latent frames.

        Args:
            config: The sizes of the model.
            rows: The number of rows.
            device: The device.
            dtype: The dtype of the keys and values, or int8.
            ahead: The latent frames that a pass may look ahead.
            context_dtype: The dtype of the keys and values of text embeddings; `dtype` by default.
        """
        super().__init__(config, rows, device, dtype, ahead=ahead)
        self._sizes, self._known = config, [0] * rows
        # A copy of the first latent frame is there from the beginning, of zeros: prefix_from says who sees it.
        self.prefix_lengths_B.fill_(config.prefix)
        shape = (config.depth, rows, config.kv_heads, config.context_length, config.head_dim)
        self._context = {
            name: torch.zeros(shape, device=device, dtype=context_dtype or dtype)
            for name in CONTEXT if config.context_dim
        }  # fmt: skip

    def context(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values (B, K, P, E) of the text embeddings in a block."""
        keys, values = (self._context[name][layer] for name in CONTEXT)
        return keys, values

    def put_context(self, layer: int, rows_B: torch.Tensor, k_BKPE: torch.Tensor, v_BKPE: torch.Tensor) -> None:
        """Write the keys and values of the text embeddings of these rows in a block."""
        for name, states_BKPE in zip(CONTEXT, (k_BKPE, v_BKPE), strict=True):
            self._context[name][layer, rows_B] = states_BKPE

    def advance(self, count: int | Sequence[int]) -> None:
        """Advance the rows, and keep the first latent frame of those in which its last keys and values are computed."""
        super().advance(count)
        counts = [count] * len(self._known) if isinstance(count, int) else count
        # Known here without asking the device. The keys of a token are computed as the next one is predicted.
        first = self._sizes.frame_size
        before, self._known = self._known, [known + more for known, more in zip(self._known, counts, strict=True)]
        if self._sizes.rolls:
            for row, (old, new) in enumerate(zip(before, self._known, strict=True)):
                if old <= first < new:
                    self._keep_first(row)

    def _keep_first(self, row: int) -> None:
        size = self._sizes.frame_size
        for tensor in self._tensors.values():
            tensor[:, row, :, :size] = tensor[:, row, :, size : 2 * size]  # position 0 is in the ring's first slot

    def arrange(self, sources: Sequence[int | None]) -> None:
        """Rearrange the rows; see `RingCache.arrange`."""
        super().arrange(sources)
        self.prefix_lengths_B.fill_(self._sizes.prefix)
        self._known = [0 if source is None else self._known[source] for source in sources]
        for name, tensor in self._context.items():
            self._context[name] = gather_rows(tensor.transpose(0, 1), sources).transpose(0, 1)

    def export(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return a copy, on the CPU, of all that the cache holds of these rows."""
        return super().export(rows) | {name: part[:, list(rows)].cpu() for name, part in self._context.items()}

    def accepts(self, rows: int, state: CacheState) -> bool:
        """Return whether `state` holds `rows` rows of a cache like this one, whose ring may be longer or shorter."""
        own = {name: part for name, part in state.items() if name not in CONTEXT}
        fits = state.keys() - own.keys() == self._context.keys() and super().accepts(rows, own)
        for name, part in self._context.items():
            fits = fits and state[name].shape == (len(part), rows, *part.shape[2:]) and state[name].dtype == part.dtype
        return fits

    def restore(self, rows: Sequence[int], state: CacheState, tokens_S: torch.Tensor) -> None:
        """Set these rows to an accepted state, at the end of the tokens `tokens_S` of their clip."""
        super().restore(rows, state, tokens_S)
        for name, part in self._context.items():
            part[:, list(rows)] = state[name].to(part.device)
        for row in rows:
            self._known[row] = len(tokens_S)
