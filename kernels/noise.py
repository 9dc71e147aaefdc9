"""Randomness that belongs to the token: Gumbel noise keyed by (seed, sample, position, vocabulary entry) alone.

    noise_BV = gumbel_noise(seeds_B, samples_B, positions_B, vocab_size)
    token_B = (logits_BV + noise_BV).argmax(-1)              # a sample of softmax(logits): the Gumbel-max trick

The same prompt and seed give the same tokens alone, in any batch, streamed, resumed or decoded in parallel, since no
generator's state stands between a token and its noise. The bits are Philox 4x32-10 (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"); words 0 .. 3 of counter n belong to the vocabulary entries 4 n .. 4 n + 3.

The noise has the same bits on every device and in the Triton kernels. No two libraries agree on the last bit of a
logarithm, so this one is written out: integers, and float32 additions and multiplications, one rounding each, in a
fixed order. Whoever computes it elsewhere must do the same steps and must not contract them to fused multiply-adds.
"""

import torch

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
# sqrt(1/2) as the bits of a float32: a number is taken for m * 2**octaves with m from sqrt(1/2) to sqrt(2).
SQRT_HALF = 0x3F3504F3
# All of these are float32 numbers exactly.
LN2 = 0.6931471824645996
# (f - log(1 + f)) / f**2 for f = m - 1, from the constant up: the smallest largest error, relative to the logarithm.
CURVE = (
    0.5000032186508179,
    -0.3333471417427063,
    0.2497122883796692,
    -0.1990688294172287,
    0.17243224382400513,
    -0.16180501878261566,
    0.1008237823843956,
)

_MASK = 0xFFFFFFFF
_AT_ONCE = 2**17  # numbers; more at a time than the processor's cache holds is slower


def philox(counter: list[torch.Tensor], key: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
    """Philox 4x32-10: four int64 tensors of 32-bit counters and two of keys to four of random 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # The product wraps in int64, but its bits are those of the unsigned one; the mask undoes the sign's spread.
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c2 = ((p1 >> 32) ^ c1 ^ k0) & _MASK, ((p0 >> 32) ^ c3 ^ k1) & _MASK
        c1, c3 = p1, p0  # their upper halves go with the next mask
        k0, k1 = (k0 + WEYL[0]) & _MASK, (k1 + WEYL[1]) & _MASK
    return [c0, c1 & _MASK, c2, c3 & _MASK]


def gumbel(bits: torch.Tensor) -> torch.Tensor:
    """-log(-log(u)) in float32 for u = (bits + 1/2) / 2**32; `bits` are 32-bit words in int64.

    The error is below 2e-7 times the value, or times 4 where the value is smaller.
    """
    odd = (bits << 1).add_(1)  # u = odd / 2**33 = m / 2**octaves
    octaves = 33 - ((odd.float().view(torch.int32) - SQRT_HALF) >> 23)
    # m - 1 from the integers: no digit is lost where u is next to 1, whose logarithm is all that is left of it.
    excess = (odd << octaves).sub_(2**33).float().mul_(2.0**-33)
    exponential = _minus_log(octaves.float(), excess)
    offset = exponential.view(torch.int32) - SQRT_HALF
    octaves = (offset >> 23).neg_()
    excess = offset.bitwise_and_(0x7FFFFF).add_(SQRT_HALF).view(torch.float32).sub_(1)
    return _minus_log(octaves.float(), excess)


def gumbel_noise(seeds: torch.Tensor, samples: torch.Tensor, positions: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Standard Gumbel noise (…, V) float32 for int64 tensors that broadcast to one shape (…).

    Args:
        seeds: the user's, 64 bits.
        samples: which of the samples of one prompt, the low 32 bits.
        positions: video positions, 64 bits.
        vocab_size: V.
    """
    shape = torch.broadcast_shapes(seeds.shape, samples.shape, positions.shape)
    keys_M3 = torch.stack([numbers.expand(shape).flatten() for numbers in (seeds, samples, positions)], -1)
    parts = [_noise_rows(part_M3, vocab_size) for part_M3 in keys_M3.split(max(1, _AT_ONCE // vocab_size))]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(*shape, vocab_size)


def _noise_rows(keys_M3: torch.Tensor, vocab_size: int) -> torch.Tensor:
    seed_M1, sample_M1, position_M1 = keys_M3.split(1, -1)
    block_X = torch.arange(-(-vocab_size // 4), device=keys_M3.device)
    # What does not depend on the block stays one number a row for the first two rounds.
    words = philox(
        [block_X, position_M1 & _MASK, (position_M1 >> 32) & _MASK, sample_M1 & _MASK],
        (seed_M1 & _MASK, (seed_M1 >> 32) & _MASK),
    )
    return gumbel(torch.stack(words, -1).flatten(-2)[:, :vocab_size])


def _minus_log(octaves: torch.Tensor, excess: torch.Tensor) -> torch.Tensor:
    """-log((1 + excess) / 2**octaves); changes `octaves`."""
    curve = excess * CURVE[-1]
    for coefficient in CURVE[-2::-1]:
        curve.add_(coefficient).mul_(excess)
    return octaves.mul_(LN2).sub_(excess).add_(curve.mul_(excess))
