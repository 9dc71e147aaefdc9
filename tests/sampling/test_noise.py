import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reelm.sampling.noise import NoiseKey, gumbel_noise, philox


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


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4), st.integers(0, 2**40), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_noise_belongs_to_seed_position_and_entry_alone(seeds, position, vocab):
    keys = [NoiseKey(seed, sample) for sample, seed in enumerate(seeds)]
    positions = torch.arange(position, position + 6).expand(len(keys), -1)
    together = gumbel_noise(keys, positions, vocab)
    for row, key in enumerate(keys):
        for place in (0, 5):
            alone = gumbel_noise([key], positions[:1, place : place + 1], vocab)
            assert torch.equal(alone[0, 0], together[row, place])
    wider = gumbel_noise(keys, positions, vocab + 7)
    assert torch.equal(wider[..., :vocab], together)


def test_seed_sample_position_and_entry_all_matter():
    base = gumbel_noise([NoiseKey(3)], torch.tensor([[5]]), 64)
    for other in (
        gumbel_noise([NoiseKey(4)], torch.tensor([[5]]), 64),
        gumbel_noise([NoiseKey(3 + 2**32)], torch.tensor([[5]]), 64),
        gumbel_noise([NoiseKey(3, 1)], torch.tensor([[5]]), 64),
        gumbel_noise([NoiseKey(3)], torch.tensor([[6]]), 64),
        gumbel_noise([NoiseKey(3)], torch.tensor([[5 + 2**32]]), 64),
    ):
        assert not (base == other).any()
    assert base.unique().numel() == 64


def test_the_noise_is_gumbel_and_samples_the_softmax():
    noise = gumbel_noise([NoiseKey(1)], torch.arange(20_000)[None], 5)[0]
    assert torch.isfinite(noise).all()
    # Mean and standard deviation of the Gumbel distribution, within 5 standard errors of 100,000 draws.
    assert abs(noise.mean().item() - 0.57722) < 5 * 1.2825 / math.sqrt(100_000)
    assert abs(noise.std().item() - math.pi / math.sqrt(6)) < 0.02
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    drawn = torch.bincount((logits + noise).argmax(-1), minlength=5) / 20_000
    assert (drawn - logits.softmax(-1)).abs().max() < 5 * math.sqrt(0.25 / 20_000)
