"""Randomness that belongs to the token: Gumbel noise keyed by (seed, sample, position, vocabulary entry) alone.

    noise_BLV = gumbel_noise(keys, positions_BL, vocab_size)
    token = (logits + noise).argmax(-1)                      # a sample of softmax(logits): the Gumbel-max trick

The same prompt and seed give the same tokens alone, in any batch, streamed, resumed or decoded in parallel, since no
generator's state stands between a token and its noise. The bits are Philox 4x32-10 (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"), the same on every device.
"""

from dataclasses import dataclass

import torch

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


@dataclass(frozen=True)
class NoiseKey:
    """Names the noise of one clip: the user's seed, and which of the samples of one prompt it is."""

    seed: int
    sample: int = 0


def philox(counter: list[torch.Tensor], key: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
    """Philox 4x32-10: four int64 tensors of 32-bit counters and two of keys to four of random 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The product wraps in int64, but its bits are those of the unsigned one; the mask undoes the sign's spread.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, ((p0 >> 32) & _MASK) ^ c3 ^ k1
        c1, c3 = p1 & _MASK, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return [c0, c1, c2, c3]


def gumbel_noise(keys: list[NoiseKey], positions_BL: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Standard Gumbel noise (B, L, V) float32 for these positions of the clips that `keys` names."""
    device = positions_BL.device
    seed_B11 = torch.tensor([key.seed for key in keys], device=device)[:, None, None]
    sample_B11 = torch.tensor([key.sample for key in keys], device=device)[:, None, None]
    positions_BL1 = positions_BL[..., None]
    block_V4 = torch.arange(-(-vocab_size // 4), device=device)
    shape = torch.broadcast_shapes(positions_BL1.shape, block_V4.shape)
    words = philox(
        [
            block_V4.expand(shape),
            (positions_BL1 & _MASK).expand(shape),
            (positions_BL1 >> 32).expand(shape),
            sample_B11,
        ],
        (seed_B11 & _MASK, (seed_B11 >> 32) & _MASK),
    )
    bits = torch.stack([word.expand(shape) for word in words], -1).flatten(-2)[..., :vocab_size]
    uniform = (bits.double() + 0.5) / 2.0**32
    return (-torch.log(-torch.log(uniform))).float()
