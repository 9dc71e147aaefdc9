"""Sampling rules: guidance, temperature, top-k, top-p, min-p, and the user's own logits processors.

settings = SamplingConfig(guidance_scale=3.0, top_k=50)
scores_BV = filter_logits(guide(conditional_BV, unconditional_BV, 3.0), settings)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..core.errors import require

# Takes (input_ids (B, S), scores (B, V)) and returns new scores, as in transformers.
LogitsProcessor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is drawn.

    Attributes:
        guidance_scale: how strongly the prompt is followed; 1 is off (half the work), 0 ignores the prompt.
        temperature: below 1 sharper, above 1 flatter; 0 always takes the best token.
        top_k: only the k best tokens; None for all.
        top_p: only the best tokens that together have this probability; 1 for all.
        min_p: only tokens with at least this share of the best one's probability; 0 for all.
    """

    guidance_scale: float = 3.0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        scale, temperature = self.guidance_scale, self.temperature
        require(0 <= scale <= 100, "guidance_scale", "must be between 0 and 100", scale)
        require(0 <= temperature <= 100, "temperature", "must be between 0 and 100", temperature)
        whole = self.top_k is None or (isinstance(self.top_k, int) and self.top_k >= 1)
        require(whole, "top_k", "must be a whole number of at least 1, or None", self.top_k)
        require(0 < self.top_p <= 1, "top_p", "must be above 0 and at most 1", self.top_p)
        require(0 <= self.min_p <= 1, "min_p", "must be between 0 and 1", self.min_p)


def guide(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance on logits: u + s (c - u) (Ho and Salimans 2022, arXiv 2207.12598)."""
    return unconditional + scale * (conditional - unconditional)


def filter_logits(
    logits_BV: torch.Tensor,
    settings: SamplingConfig,
    processors: Sequence[LogitsProcessor] = (),
    input_ids_BS: torch.Tensor | None = None,
) -> torch.Tensor:
    """Apply the processors, then temperature, top-k, top-p and min-p; tokens ruled out become -inf.

    top-p keeps the token with which the sum passes `top_p` (Holtzman et al. 2020, arXiv 1904.09751); min-p is that of
    Nguyen et al. 2024 (arXiv 2407.01082). The best token always stays.
    """
    scores = logits_BV.float()
    for processor in processors:
        assert input_ids_BS is not None
        scores = processor(input_ids_BS, scores)
    if settings.temperature == 0:
        best = scores.argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter_(-1, best, 0.0)
    scores = scores / settings.temperature
    if settings.top_k is not None and settings.top_k < scores.shape[-1]:
        least = scores.topk(settings.top_k, -1).values[..., -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if settings.top_p < 1:
        ordered, order = scores.sort(-1, descending=True)
        probabilities = ordered.softmax(-1)
        beyond = probabilities.cumsum(-1) - probabilities >= settings.top_p
        scores = scores.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
    if settings.min_p > 0:
        best = scores.amax(-1, keepdim=True)
        scores = scores.masked_fill(scores < best + math.log(settings.min_p), -torch.inf)
    return scores
