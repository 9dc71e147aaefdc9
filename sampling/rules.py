"""The sampling settings of the user: guidance, temperature, top-k, top-p, min-p, and the type of logits processors.

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
    """The settings by which the next token is drawn.

    Attributes:
        guidance_scale: The strength of guidance by the prompt; 1 is off (half the work), 0 ignores the prompt.
        temperature: The divisor of the logits: below 1 sharper, above 1 flatter; 0 always takes the best token, and the
            least value above it is 1e-6.
        top_k: The number of best tokens to choose from; None for all.
        top_p: The probability that the best tokens to choose from have together; 1 for all.
        min_p: The least probability of a token to choose from, as a share of the best one's; 0 for all.
    """

    guidance_scale: float = 3.0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        check_settings(self.guidance_scale, self.temperature, self.top_k, self.top_p, self.min_p)
