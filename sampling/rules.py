"""Sampling rules as the user sets them: guidance, temperature, top-k, top-p, min-p, and their own logits processors.

settings = SamplingConfig(guidance_scale=3.0, top_k=50)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..kernels.sample import check_settings

# Takes (input_ids (B, S), scores (B, V)) and returns new scores, as in transformers.
LogitsProcessor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is drawn.

    Attributes:
        guidance_scale: how strongly the prompt is followed; 1 is off (half the work), 0 ignores the prompt.
        temperature: below 1 sharper, above 1 flatter; 0 always takes the best token, and the least above it is 1e-6.
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
        check_settings(self.guidance_scale, self.temperature, self.top_k, self.top_p, self.min_p)
