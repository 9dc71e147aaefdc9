import torch

from reelm.sampling.noise import NoiseKey, key_tensors


def test_key_tensors_hold_every_seed_and_sample():
    keys = [NoiseKey(2**63 - 1), NoiseKey(0, 2**31 - 1), NoiseKey(5, sample=3)]
    seeds_B, samples_B = key_tensors(keys, torch.device("cpu"))
    assert seeds_B.dtype == samples_B.dtype == torch.int64
    assert seeds_B.tolist() == [2**63 - 1, 0, 5] and samples_B.tolist() == [0, 2**31 - 1, 3]
