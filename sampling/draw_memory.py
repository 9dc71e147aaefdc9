"""How many bytes drawing tokens takes beside the language model: its noise, and what is made of the logits.

held, kept = noise_bytes(vocab_size=1920, batch=1, count=16)
step = draw_bytes(vocab_size=1920, rows=2, count=16, dtype=torch.float32, sampling=SamplingConfig())

The formulas follow the code that allocates, tensor by tensor.
"""

import torch

from .noise_keys import NoiseAhead
from .rules import SamplingConfig

# What `gumbel_noise` holds for each number, five tensors of int64, and how many it makes at a time.
NOISE_BYTES, NOISE_AT_ONCE = 40, 2**17


def noise_bytes(vocab_size: int, batch: int, count: int) -> tuple[int, int]:
    """The bytes of the noise ahead at their height, and once it is there (`NoiseAhead`, `gumbel_noise`)."""
    block = NoiseAhead(vocab_size, torch.device("meta")).block
    numbers = batch * -(-count // block) * block * vocab_size
    # The block before, the new one in parts, and the new one as a whole: of all clips where they advance together.
    # Those of a block decoder drift apart, so that few draw in one pass: from 2 on, and 3 if none does drift.
    together = batch == 1 or count == 1
    return (12 if together else 10) * numbers + NOISE_BYTES * min(numbers, NOISE_AT_ONCE), 4 * numbers


def draw_bytes(vocab_size: int, rows: int, count: int, dtype: torch.dtype, sampling: SamplingConfig) -> int:
    """The bytes of the logits and of all that `sample_reference` makes of them."""
    clips = rows // 2 if sampling.guidance_scale != 1 else rows
    logits = rows * (dtype.itemsize + (0 if dtype == torch.float32 else 4))
    # The noise, the scores, those of them that are allowed, their sum; with top-p the order and its probabilities.
    return count * vocab_size * (logits + 4 * clips * (8 if sampling.top_p < 1 else 4))
