"""The noise: published bits, an error bound over the tails, the Gumbel distribution, and what it depends on."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.kernels.noise import CURVE, LN2, gumbel, gumbel_noise, noise_of_entries, philox
from reelm.tests.examples import examples


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # the known answers that come with Random123
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_words(counter, key, words):
    out = philox([torch.tensor(c) for c in counter], (torch.tensor(key[0]), torch.tensor(key[1])))
    assert " ".join(f"{int(word):08x}" for word in out) == words


def exact_gumbel(bits):
    """-log(-log(u)) in float64, from the side on which u has its digits."""
    below, above = (bits.double() + 0.5) / 2**32, ((2**32 - 1 - bits).double() + 0.5) / 2**32
    return -torch.log(-torch.where(below < 0.5, below.log(), torch.log1p(-above)))


def check_error(bits):
    out, exact = gumbel(bits), exact_gumbel(bits)
    assert out.dtype == torch.float32 and out.isfinite().all()
    assert ((out - exact).abs() <= 2e-7 * exact.abs().clamp(min=4)).all()


@pytest.mark.parametrize("edge", [0, 2**29, 0x5A827999, 2**31, 0xB504F334, 2**32])
def test_the_error_is_a_few_roundings_in_the_tails_and_where_an_octave_begins(edge):
    check_error(torch.arange(max(0, edge - 2**17), min(2**32, edge + 2**17)))


def test_the_error_is_a_few_roundings_at_every_magnitude():
    random = torch.Generator().manual_seed(0)
    check_error(torch.randint(2**32, (2**20,), generator=random))
    magnitudes = (2.0 ** (32 * torch.rand(2**18, dtype=torch.float64, generator=random))).long().clamp(max=2**32 - 1)
    check_error(magnitudes)
    check_error(2**32 - 1 - magnitudes)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(64))
def test_the_error_of_every_word_there_is(part):
    for start in range(part * 2**26, (part + 1) * 2**26, 2**20):
        check_error(torch.arange(start, start + 2**20))


def test_the_extremes():
    lowest, highest = gumbel(torch.tensor([0, 2**32 - 1])).tolist()
    assert lowest == pytest.approx(-math.log(33 * math.log(2)), rel=2e-7)
    assert highest == pytest.approx(33 * math.log(2), rel=2e-7)


def step_by_step(word):
    """`gumbel` of one word in numpy, one operation at a time, each rounded to float32."""
    one, bits_of_half = np.float32(1), np.float32(2**-0.5).view(np.int32)

    def minus_log(octaves, excess):
        curve = np.float32(0)
        for coefficient in CURVE[::-1]:
            curve = np.float32(np.float32(coefficient) + np.float32(curve * excess))
        curve = np.float32(np.float32(curve * excess) * excess)
        return np.float32(np.float32(np.float32(octaves) * np.float32(LN2)) - excess) + curve

    odd = 2 * word + 1
    octaves = 33 - ((int(np.float32(odd).view(np.int32)) - int(bits_of_half)) >> 23)
    exponential = minus_log(octaves, np.float32(np.float32((odd << octaves) - 2**33) / np.float32(2**33)))
    offset = int(exponential.view(np.int32)) - int(bits_of_half)
    mantissa = np.int32((offset % 2**23) + int(bits_of_half)).view(np.float32)
    return minus_log(-(offset >> 23), np.float32(mantissa - one))


@given(st.integers(0, 2**32 - 1))
@examples(200)
def test_the_bits_are_those_of_single_roundings_in_the_stated_order(word):
    # In a tensor long enough for vector instructions: with a fused multiply-add among them, bits would differ.
    out = gumbel(torch.full((67,), word))
    assert (out.view(torch.int32) == int(step_by_step(word).view(np.int32))).all()


def test_the_constants_are_float32():
    assert [float(np.float32(number)) for number in (LN2, *CURVE)] == [LN2, *CURVE]


SEEDS = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4)


@given(SEEDS, st.integers(0, 2**40), st.integers(2, 40))
@examples(40)
def test_noise_belongs_to_seed_position_and_entry_alone(seeds, position, vocab):
    seeds_B1, samples_B1 = torch.tensor(seeds)[:, None], torch.arange(len(seeds))[:, None]
    positions_L = torch.arange(position, position + 6)
    together = gumbel_noise(seeds_B1, samples_B1, positions_L, vocab)
    assert together.shape == (len(seeds), 6, vocab)
    for row in range(len(seeds)):
        for place in (0, 5):
            alone = gumbel_noise(seeds_B1[row], samples_B1[row], positions_L[place], vocab)
            assert torch.equal(alone[0], together[row, place])
    wider = gumbel_noise(seeds_B1, samples_B1, positions_L, vocab + 7)
    assert torch.equal(wider[..., :vocab], together)


def test_many_at_once_are_the_same_numbers():
    # More than are computed at a time, in one row and in many.
    seed, sample, positions = torch.tensor([5]), torch.tensor([1]), torch.arange(300)
    together = gumbel_noise(seed, sample, positions, 1001)
    assert torch.equal(together[299], gumbel_noise(seed, sample, positions[299:], 1001)[0])
    wide = gumbel_noise(seed, sample, positions[:2], 140_001)
    assert torch.equal(wide[:, :1001], together[:2])


def noise(seed=3, sample=0, position=5, vocab=64):
    return gumbel_noise(*(torch.tensor([number]) for number in (seed, sample, position)), vocab)[0]


@pytest.mark.parametrize(
    "other", [{"seed": 4}, {"seed": 3 + 2**32}, {"sample": 1}, {"position": 6}, {"position": 5 + 2**32}]
)
def test_seed_sample_position_and_entry_all_matter(other):
    assert not (noise() == noise(**other)).any()
    assert noise().unique().numel() == 64


def test_single_entries_have_the_same_numbers():
    random = torch.Generator().manual_seed(1)
    keys = [torch.randint(-(2**62), 2**62, (50,), generator=random) for _ in range(3)]
    entries = torch.randint(100, (50,), generator=random)
    expected = gumbel_noise(*keys, 100)[torch.arange(50), entries]
    assert torch.equal(noise_of_entries(*keys, entries), expected)


def test_the_noise_is_gumbel():
    draws = gumbel_noise(torch.tensor([1]), torch.tensor([0]), torch.arange(2000), 100).double().flatten()
    count = draws.numel()
    # Mean, variance and the Kolmogorov-Smirnov distance, each within 5 standard errors or at a chance of 1e-6.
    variance = math.pi**2 / 6
    assert abs(draws.mean().item() - 0.5772156649) < 5 * math.sqrt(variance / count)
    assert abs(draws.var().item() - variance) < 5 * variance * math.sqrt((5.4 - 1) / count)
    expected = torch.exp(-torch.exp(-draws.sort().values))
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    distance = max((expected - steps[:-1]).max().item(), (steps[1:] - expected).max().item())
    assert distance < math.sqrt(math.log(2 / 1e-6) / 2 / count)
    # Each entry's and each position's too: no axis of the counter is weaker than the others.
    table = draws.view(2000, 100)
    assert (table.mean(0) - 0.5772).abs().max() < 5 * math.sqrt(variance / 2000)
    assert (table.mean(1) - 0.5772).abs().max() < 5 * math.sqrt(variance / 100)
