"""`nearest_code` in Triton's interpreter (conftest.py tells how)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.kernels import nearest_code_triton
from reelm.kernels.nearest_code import nearest_code


def draw(dtype, N, K, D, seed=0):
    random, device = torch.Generator().manual_seed(seed), torch.empty(0).device
    return [torch.randn(size, D, generator=random, device="cpu").to(device, dtype) for size in (N, K)]


NEAREST = [
    # dtype, N, K, D
    pytest.param(torch.float32, 1, 1, 1, id="one of each"),
    pytest.param(torch.float32, 0, 5, 3, id="no vectors"),
    pytest.param(torch.float32, 129, 200, 33, id="blocks and one more of every axis"),
    pytest.param(torch.float32, 3, 64, 16, id="whole blocks"),
    pytest.param(torch.bfloat16, 40, 130, 70, id="bf16"),
    pytest.param(torch.float16, 7, 65, 5, id="fp16"),
]


def check(oracle, dtype, N, K, D, seed=0):
    x_MD, codebook_ZD = draw(dtype, N, K, D, seed)
    ids_M = nearest_code(x_MD, codebook_ZD, backend="triton")
    oracle.check_nearest(ids_M, x_MD, codebook_ZD)
    if N:
        alone = nearest_code(x_MD[-1:], codebook_ZD, backend="triton")
        assert torch.equal(alone, ids_M[-1:])


@pytest.mark.parametrize(("dtype", "N", "K", "D"), NEAREST)
def test_nearest_code(oracle, dtype, N, K, D):
    check(oracle, dtype, N, K, D)


def test_sizes_that_hypothesis_draws(oracle, examples):
    dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])

    @examples
    @given(dtypes, st.integers(0, 300), st.integers(1, 300), st.integers(1, 257), st.integers(0, 1000))
    def is_right(dtype, N, K, D, seed):
        check(oracle, dtype, N, K, D, seed)

    is_right()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_far_apart_are_told_exactly(dtype):
    _, codebook_ZD = draw(dtype, 0, 300, 24)
    wanted_N = torch.arange(299, -1, -3)
    x_MD = (codebook_ZD[wanted_N].float() * 1.01).to(dtype)
    assert torch.equal(nearest_code(x_MD, codebook_ZD, backend="triton"), wanted_N)


def test_of_codes_at_the_same_distance_the_lowest_id_is_taken(oracle):
    # Small integers: all is exact in float32. 150 codes of 25 places, so that equals lie in one block and in several.
    x_MD, codebook_ZD = (x.clamp(-2, 2).round() for x in draw(torch.float32, 40, 150, 2))
    distances_NK = oracle.distances(x_MD, codebook_ZD)
    lowest_N = (distances_NK == distances_NK.min(1, keepdim=True).values).int().argmax(1)
    assert torch.equal(nearest_code(x_MD, codebook_ZD, backend="triton"), lowest_N)


def test_the_padding_of_the_codebook_is_never_chosen():
    # Padding reads as zeros: the nearest of all, were it not masked.
    x_MD, codebook_ZD = torch.full((5, 3), 1e-3), torch.full((70, 3), 9.0)
    assert nearest_code(x_MD, codebook_ZD, backend="triton").eq(0).all()


def test_strides_are_free():
    x_MD, codebook_ZD = draw(torch.float32, 20, 70, 6)
    apart = (x_MD.T.contiguous().T, codebook_ZD.repeat_interleave(2, 0)[::2])
    expected = nearest_code(x_MD, codebook_ZD, backend="triton")
    assert torch.equal(nearest_code(*apart, backend="triton"), expected)


def test_the_reference_is_not_run(monkeypatch):
    ran = []
    monkeypatch.setattr(nearest_code_triton, "nearest_code_triton", lambda *args: ran.append(args))
    nearest_code(torch.zeros(1, 2), torch.zeros(1, 2), backend="triton")
    assert len(ran) == 1
    nearest_code(torch.zeros(1, 2).double(), torch.zeros(1, 2).double(), backend="triton")
    assert len(ran) == 1, "float64 goes to the reference"
