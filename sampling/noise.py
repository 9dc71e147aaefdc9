"""Which noise a clip is drawn with: named by its key, made by kernels/noise.py.

seeds_B, samples_B = key_tensors([NoiseKey(7), NoiseKey(7, sample=1)], device)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class NoiseKey:
    """Names the noise of one clip: the user's seed, and which of the samples of one prompt it is."""

    seed: int
    sample: int = 0


def key_tensors(keys: Sequence[NoiseKey], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The seeds and the samples (B,) int64 of these clips."""
    numbers_2B = torch.tensor([[key.seed for key in keys], [key.sample for key in keys]], device=device)
    return numbers_2B[0], numbers_2B[1]
