"""Gumbel noise that is a function of (seed, sample, position, vocabulary entry) only.

    noise_BV = gumbel_noise(seeds_B, samples_B, positions_B, vocab_size)
    token_B = (logits_BV + noise_BV).argmax(-1)              # a sample of softmax(logits): the Gumbel-max trick
    noise_M = noise_of_entries(seeds_M, samples_M, positions_M, entries_M)         # of single entries

The same prompt and seed give the same tokens alone, in any batch, streamed, resumed or decoded in parallel, since the
noise of a token does not depend on the state of a generator. The bits come from Philox 4x32-10 (Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3"); words 0 .. 3 of counter n belong to the vocabulary entries 4 n to
4 n + 3.

The noise has the same bits on every device and in the Triton kernels. Since libraries differ in the last bit of a
logarithm, the logarithm is computed here from integer operations and float32 additions and multiplications, each
rounded once, in a fixed order. Another implementation must use the same steps without fused multiply-adds.
"""

from typing import TypeVar

import numpy as np
import torch

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
# The bits of sqrt(1/2) in float32: a number is split into m * 2**octaves with m from sqrt(1/2) to sqrt(2).
SQRT_HALF = 0x3F3504F3
# These constants are exact float32 numbers.
LN2 = 0.6931471824645996
# The coefficients, from the constant up, of a polynomial for (f - log(1 + f)) / f**2 with f = m - 1, which minimises
# the largest error relative to the logarithm.
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
_CHUNK = 2**17  # numbers in one computation; more would not fit into a CPU's cache, which is slower


# On few numbers numpy takes a third of torch's time.
Words = TypeVar("Words", torch.Tensor, np.ndarray)


def philox(counter: list[Words], key: tuple[Words, Words]) -> list[Words]:
    """Return four arrays of random 32-bit words in int64, by Philox 4x32-10.

    Args:
        counter: Four int64 tensors or arrays of 32-bit words.
        key: Two int64 tensors or arrays of 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # The int64 product overflows to the bits of the unsigned product; the masks remove the sign that >> extends.
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c2 = ((p1 >> 32) ^ c1 ^ k0) & _MASK, ((p0 >> 32) ^ c3 ^ k1) & _MASK
        c1, c3 = p1, p0  # the next mask removes their upper halves
        k0, k1 = (k0 + WEYL[0]) & _MASK, (k1 + WEYL[1]) & _MASK
    return [c0, c1 & _MASK, c2, c3 & _MASK]


def gumbel(bits: Words) -> Words:
    """Return the Gumbel noise -log(-log(u)) in float32 for u = (bits + 1/2) / 2**32; `bits` are 32-bit words in int64.

    The error is below 2e-7 times the larger of the absolute value and 4.
    """
    odd = bits << 1
    odd += 1  # u = odd / 2**33 = m / 2**octaves
    octaves = 33 - ((_as_int32(_to_float(odd)) - SQRT_HALF) >> 23)
    # m - 1 is computed in integers, since rounding u to float32 first would lose most bits of m - 1 if u is close to 1.
    odd <<= octaves
    odd -= 2**33
    excess = _to_float(odd)
    excess *= 2.0**-33
    exponential = _minus_log(_to_float(octaves), excess)
    offset = _as_int32(exponential) - SQRT_HALF
    octaves = -(offset >> 23)
    offset &= 0x7FFFFF
    offset += SQRT_HALF
    excess = _as_float(offset)
    excess -= 1
    return _minus_log(_to_float(octaves), excess)


def gumbel_noise(seeds: torch.Tensor, samples: torch.Tensor, positions: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Return standard Gumbel noise (…, V) float32 for int64 tensors that broadcast to one shape (…).

    Args:
        seeds: The user's seeds, 64 bits.
        samples: The indices of samples of one prompt, of which the low 32 bits are used.
        positions: The video positions, 64 bits.
        vocab_size: The size of the vocabulary, V.
    """
    # Not `broadcast_shapes`, which imports sympy: that takes as long as a hundred passes of a small model.
    keys_X3 = torch.stack(torch.broadcast_tensors(seeds, samples, positions), -1)
    keys_M3 = keys_X3.view(-1, 3)
    parts = [_noise_rows(part_M3, vocab_size) for part_M3 in keys_M3.split(max(1, _CHUNK // vocab_size))]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(*keys_X3.shape[:-1], vocab_size)


def noise_of_entries(
    seeds_M: torch.Tensor, samples_M: torch.Tensor, positions_M: torch.Tensor, entries_M: torch.Tensor
) -> torch.Tensor:
    """Return the Gumbel noise (M,) float32 of single vocabulary entries, on a CPU: the numbers of `gumbel_noise`.

    Args:
        seeds_M, samples_M, positions_M: The keys of the noise, as for `gumbel_noise`.
        entries_M: The vocabulary entries, int64.
    """
    seeds, samples, positions, entries = (x.numpy() for x in (seeds_M, samples_M, positions_M, entries_M))
    words_4M = philox(
        [entries >> 2, positions & _MASK, (positions >> 32) & _MASK, samples & _MASK],
        (seeds & _MASK, (seeds >> 32) & _MASK),
    )
    return torch.from_numpy(gumbel(np.choose(entries & 3, words_4M)))


def _noise_rows(keys_M3: torch.Tensor, vocab_size: int) -> torch.Tensor:
    seed_M1, sample_M1, position_M1 = keys_M3.split(1, -1)
    block_X = torch.arange(-(-vocab_size // 4), device=keys_M3.device)
    # The words that do not depend on the block keep one number per row in the first two rounds.
    words = philox(
        [block_X, position_M1 & _MASK, (position_M1 >> 32) & _MASK, sample_M1 & _MASK],
        (seed_M1 & _MASK, (seed_M1 >> 32) & _MASK),
    )
    return gumbel(torch.stack(words, -1).flatten(-2)[:, :vocab_size])


def _minus_log(octaves: Words, excess: Words) -> Words:
    """Return -log((1 + excess) / 2**octaves), computed in the memory of `octaves`."""
    curve = excess * CURVE[-1]
    for coefficient in CURVE[-2::-1]:
        curve += coefficient
        curve *= excess
    curve *= excess
    octaves *= LN2
    octaves -= excess
    octaves += curve
    return octaves


def _to_float(x: Words) -> Words:
    """Return numbers in float32."""
    return x.float() if isinstance(x, torch.Tensor) else x.astype(np.float32)


def _as_float(x: Words) -> Words:
    """Return int32 as the float32 of the same bits."""
    return x.view(torch.float32) if isinstance(x, torch.Tensor) else x.view(np.float32)


def _as_int32(x: Words) -> Words:
    """Return float32 as the int32 of the same bits."""
    return x.view(torch.int32) if isinstance(x, torch.Tensor) else x.view(np.int32)
