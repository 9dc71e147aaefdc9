"""A rollout: tokens after tokens, latent frame by latent frame, for as long as one likes, at a flat cost.

    rollout = Rollout(model, text, prompts, keys, settings)
    rollout.feed(tokens_Bthw)                  # optional: the clip that is continued
    tokens_Bhw = rollout.next_frame()

The loop of sampling is here: logits of the next position, the user's processors, `sample`. Rows of a batch do not see
each other; under guidance every clip has two rows in the cache, with and without its prompt.
"""

from collections.abc import Callable, Sequence

import torch

from ..kernels.backend import pick_backend
from ..kernels.noise import gumbel_noise
from ..kernels.sample import sample
from ..kernels.sample_reference import guide
from ..lm.cache import RingCache
from ..lm.text import TextEncoder
from ..lm.transformer import VideoTransformer
from .noise import NoiseKey, key_tensors
from .rules import LogitsProcessor, SamplingConfig

# (tokens drawn since the rollout began, the latest tokens (B,)) after each token.
StepCallback = Callable[[int, torch.Tensor], None]


class Rollout:
    """B clips under way: their prefixes, caches, positions and noise."""

    @torch.no_grad()
    def __init__(
        self,
        model: VideoTransformer,
        text: TextEncoder,
        prompts: Sequence[str],
        keys: Sequence[NoiseKey],
        settings: SamplingConfig,
        *,
        negative_prompts: Sequence[str] | None = None,
        processors: Sequence[LogitsProcessor] = (),
        on_step: StepCallback | None = None,
    ) -> None:
        self.model, self.settings, self.keys = model, settings, list(keys)
        self.processors, self.on_step = tuple(processors), on_step
        self.guided = settings.guidance_scale != 1.0
        texts = [*prompts, *(negative_prompts or [""] * len(prompts))] if self.guided else [*prompts]
        weight = next(model.parameters())
        text_BP, lengths_B = text.prefix(texts, model.config.prefix)
        self.cache = RingCache(model.config, len(texts), weight.device, weight.dtype)
        model.prefill(self.cache, text_BP.to(weight.device), lengths_B.to(weight.device))
        self.seeds_B, self.samples_B = key_tensors(self.keys, weight.device)
        self.drawn = 0
        self._seen: list[torch.Tensor] = []  # latent frames (B, h * w): logits processors may look at them

    @torch.no_grad()
    def feed(self, tokens_Bthw: torch.Tensor) -> None:
        """Read latent frames that are given, the way one's own are remembered; the rollout goes on after them."""
        for frame_BS in tokens_Bthw.flatten(2).unbind(1):
            self._remember(frame_BS)
            rows_BS = self._rows(frame_BS)
            self.cache.put_tokens(rows_BS)
            self.model.step(self.cache, rows_BS.shape[1])
            self.cache.advance(rows_BS.shape[1])

    @torch.no_grad()
    def next_frame(self) -> torch.Tensor:
        """Draw the tokens (B, h, w) of one more latent frame."""
        config, noise_BLV = self.model.config, self._noise_ahead()
        tokens: list[torch.Tensor] = []
        for place in range(config.frame_size):
            token_B = self._draw(tokens, None if noise_BLV is None else noise_BLV[:, place])
            self.cache.put_tokens(self._rows(token_B[:, None]))
            self.cache.advance(1)
            tokens.append(token_B)
            self.drawn += 1
            if self.on_step is not None:
                self.on_step(self.drawn, token_B)
        frame_BS = torch.stack(tokens, 1)
        self._remember(frame_BS)
        return frame_BS.unflatten(1, (config.rows, config.columns))

    def _noise_ahead(self) -> torch.Tensor | None:
        """The noise (B, L, V) of the next latent frame, where that is cheaper than a token's at a time."""
        config, batch = self.model.config, len(self.keys)
        if self.settings.temperature == 0 or pick_backend("sample", None, self.cache.positions_B) == "triton":
            return None
        positions_BL = self.cache.next_positions(config.frame_size)[:batch]
        return gumbel_noise(self.seeds_B[:, None], self.samples_B[:, None], positions_BL, config.vocab_size)

    def _draw(self, tokens: list[torch.Tensor], noise_BV: torch.Tensor | None) -> torch.Tensor:
        """The token (B,) of the next position, after `tokens` in its latent frame."""
        logits_RV, options = self.model.step(self.cache, 1)[:, 0], vars(self.settings)
        if self.processors:
            logits_RV, options = self._processed(logits_RV, tokens), options | {"guidance_scale": 1.0}
        positions_B = self.cache.positions_B[: len(self.keys)]
        return sample(logits_RV, self.seeds_B, self.samples_B, positions_B, **options, noise_BV=noise_BV)

    def _processed(self, logits_RV: torch.Tensor, tokens: list[torch.Tensor]) -> torch.Tensor:
        """What the user's processors make of the guided logits (B, V)."""
        scores_BV = logits_RV.float()
        if self.guided:
            conditional_BV, unconditional_BV = scores_BV.chunk(2)
            scores_BV = guide(conditional_BV, unconditional_BV, self.settings.guidance_scale)
        start = torch.zeros(len(self.keys), 0, dtype=torch.int64, device=scores_BV.device)
        ids_BS = torch.cat([start, *self._seen, *(token_B[:, None] for token_B in tokens)], 1)
        for processor in self.processors:
            scores_BV = processor(ids_BS, scores_BV)
        return scores_BV.float()

    def _rows(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        """The clips' tokens for the rows of the cache: twice under guidance."""
        return tokens_BL.repeat(2, 1) if self.guided else tokens_BL

    def _remember(self, frame_BS: torch.Tensor) -> None:
        if self.processors:  # without them nothing grows with the clip
            self._seen.append(frame_BS)
