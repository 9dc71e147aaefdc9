"""A rollout: tokens after tokens, latent frame by latent frame, for as long as one likes, at a flat cost.

    rollout = Rollout(model, text, prompts, keys, settings)
    rollout.feed(tokens_Bthw)                  # optional: the clip that is continued
    tokens_Bhw = rollout.next_frame()

The loop of sampling is here: logits of the next position, guidance, rules, noise, argmax. Rows of a batch do not see
each other; under guidance every clip has two rows in the cache, with and without its prompt.
"""

from collections.abc import Callable, Sequence

import torch

from ..lm.cache import RingCache
from ..lm.text import TextEncoder
from ..lm.transformer import VideoTransformer
from .noise import NoiseKey, gumbel_noise
from .rules import LogitsProcessor, SamplingConfig, filter_logits, guide

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
        config, batch = self.model.config, len(self.keys)
        positions_BL = self.cache.next_positions(config.frame_size)[:batch]
        # One latent frame's noise at a time: cheaper than a token's at a time, and the same numbers.
        noise_BLV = None
        if self.settings.temperature > 0:
            noise_BLV = gumbel_noise(self.keys, positions_BL, config.vocab_size)
        tokens: list[torch.Tensor] = []
        for place in range(config.frame_size):
            scores_BV = self._scores(tokens)
            if noise_BLV is not None:
                scores_BV = scores_BV + noise_BLV[:, place]
            token_B = scores_BV.argmax(-1)
            self.cache.put_tokens(self._rows(token_B[:, None]))
            self.cache.advance(1)
            tokens.append(token_B)
            self.drawn += 1
            if self.on_step is not None:
                self.on_step(self.drawn, token_B)
        frame_BS = torch.stack(tokens, 1)
        self._remember(frame_BS)
        return frame_BS.unflatten(1, (config.rows, config.columns))

    def _scores(self, tokens: list[torch.Tensor]) -> torch.Tensor:
        """What the rules leave of the logits (B, V) of the next position."""
        logits = self.model.step(self.cache, 1)[:, 0].float()
        if self.guided:
            conditional, unconditional = logits.chunk(2)
            logits = guide(conditional, unconditional, self.settings.guidance_scale)
        ids_BS = None
        if self.processors:
            start = torch.zeros(len(self.keys), 0, dtype=torch.int64, device=logits.device)
            ids_BS = torch.cat([start, *self._seen, *(token_B[:, None] for token_B in tokens)], 1)
        return filter_logits(logits, self.settings, self.processors, ids_BS)

    def _rows(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        """The clips' tokens for the rows of the cache: twice under guidance."""
        return tokens_BL.repeat(2, 1) if self.guided else tokens_BL

    def _remember(self, frame_BS: torch.Tensor) -> None:
        if self.processors:  # without them nothing grows with the clip
            self._seen.append(frame_BS)
