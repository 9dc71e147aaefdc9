import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.kernels.noise import gumbel_noise
from reelm.sampling.plan import NoiseKey
from reelm.sampling.sampler import NoiseBuffer, key_tensors


def test_key_tensors_hold_every_seed_and_sample():
    keys = [NoiseKey(2**63 - 1), NoiseKey(0, 2**31 - 1), NoiseKey(5, sample=3)]
    seeds_B, samples_B = key_tensors(keys, torch.device("cpu"))
    assert seeds_B.dtype == samples_B.dtype == torch.int64
    assert seeds_B.tolist() == [2**63 - 1, 0, 5] and samples_B.tolist() == [0, 2**31 - 1, 3]


@given(
    st.integers(2, 300), st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), min_size=1, max_size=6), st.data()
)
def test_noise_drawn_ahead_is_the_noise(vocab_size, moves, data):
    ahead, keys = NoiseBuffer(vocab_size, torch.device("cpu")), [NoiseKey(5), NoiseKey(5, 1)]
    ahead.block = data.draw(st.integers(1, 30))
    positions = [data.draw(st.integers(0, 2**40)) for _ in keys]
    seeds, samples = key_tensors(keys, torch.device("cpu"))
    for step, count in moves:
        wanted = torch.tensor(positions)[:, None] + torch.arange(count)
        found = ahead.take(keys, positions, count)
        assert torch.equal(found, gumbel_noise(seeds[:, None], samples[:, None], wanted, vocab_size))
        positions = [position + step * (row + 1) for row, position in enumerate(positions)]


def test_noise_of_the_past_is_not_kept():
    ahead = NoiseBuffer(4096, torch.device("cpu"))
    for position in range(0, 4000, 16):
        ahead.take([NoiseKey(1)], [position], 16)
    assert len(ahead._blocks) == 1
