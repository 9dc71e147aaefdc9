"""`nearest_code` on the reference, against the whole matrix of distances in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from reelm.core.errors import ReelmError
from reelm.kernels import nearest_code_reference
from reelm.kernels.nearest_code import nearest_code
from reelm.tests.examples import examples


@examples(60)
@given(data=st.data())
def test_the_chosen_code_is_the_nearest_whatever_the_sizes_and_blocks(oracle, data):
    draw = data.draw
    N, K, D = draw(st.integers(0, 40)), draw(st.integers(1, 50)), draw(st.integers(1, 9))
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]))
    random = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    x_MD, codebook_ZD = (torch.randn(size, D, generator=random).to(dtype) for size in (N, K))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_code_reference, "BLOCK_M", draw(st.integers(1, 20)))
        patch.setattr(nearest_code_reference, "BLOCK_Z", draw(st.integers(1, 20)))
        ids_M = nearest_code(x_MD, codebook_ZD, backend="reference")
    oracle.check_nearest(ids_M, x_MD, codebook_ZD)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("D", [1, 8, 255])
def test_codes_far_apart_are_told_exactly(oracle, dtype, D):
    torch.manual_seed(D)
    # On a line or a sphere of their own, each vector next to its code: nothing is left to rounding.
    codebook_ZD = torch.arange(-50.0, 51.0)[:, None] if D == 1 else torch.randn(1000, D) * 8
    wanted_N = torch.randint(len(codebook_ZD), (600,))
    x_MD = codebook_ZD[wanted_N] + torch.rand(600, D) / 50
    wanted_N = oracle.distances(x_MD.to(dtype), codebook_ZD.to(dtype)).argmin(1)
    assert torch.equal(nearest_code(x_MD.to(dtype), codebook_ZD.to(dtype)), wanted_N)


@examples(30)
@given(K=st.integers(1, 30), block=st.integers(1, 12), seed=st.integers(0, 1000))
def test_of_codes_at_the_same_distance_the_lowest_id_is_taken(oracle, K, block, seed):
    # Small integers: all is exact in float32, and ties are many.
    random = torch.Generator().manual_seed(seed)
    x_MD, codebook_ZD = (torch.randint(-2, 3, (size, 2), generator=random).float() for size in (40, K))
    distances_NK = oracle.distances(x_MD, codebook_ZD)
    lowest_N = (distances_NK == distances_NK.min(1, keepdim=True).values).int().argmax(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_code_reference, "BLOCK_Z", block)
        assert torch.equal(nearest_code(x_MD, codebook_ZD), lowest_N)


def test_products_of_half_precision_are_not_rounded_to_it():
    codebook_ZD = torch.tensor([[1.0, 0.0], [1.0, 2.0**-8]], dtype=torch.bfloat16)
    x_MD = torch.tensor([[1.0, 2.0**-8]], dtype=torch.bfloat16)
    assert nearest_code(x_MD, codebook_ZD).tolist() == [1]


class Scratch(TorchDispatchMode):
    """Notes the bytes of the largest tensor that an operation makes."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple) else (out,):
            if isinstance(tensor, torch.Tensor) and not tensor._is_view():
                self.largest = max(self.largest, tensor.numel() * tensor.element_size())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_bounded_by_the_blocks(dtype):
    """Nothing is larger than a block of scores but the ids: 2.6 MB at 327,680 vectors, beside 65,536 codes of 256."""
    N, K, D = 3000, 5000, 256
    x_MD, codebook_ZD = torch.zeros(N, D, dtype=dtype), torch.zeros(K, D, dtype=dtype)
    with Scratch() as scratch:
        nearest_code(x_MD, codebook_ZD, backend="reference")
    block = nearest_code_reference.BLOCK_M * nearest_code_reference.BLOCK_Z
    assert scratch.largest == 4 * block < N * K
    # Every operation's result at once, and the two vectors of N: still far below 200 MB at the largest sizes.
    assert 8 * 4 * block + 2 * 8 * 327_680 < 200e6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_MD": torch.zeros(3)}, "x_MD: must be vectors of at least 1 channel"),
        ({"x_MD": torch.zeros(3, 0)}, "x_MD: must be vectors of at least 1 channel"),
        ({"x_MD": torch.zeros(3, 2, dtype=torch.int64)}, "x_MD: must be of a floating-point dtype"),
        ({"codebook_ZD": torch.zeros(4, 3)}, r"codebook_ZD: must be codes of 2 channels \(D\), got \(4, 3\)"),
        ({"codebook_ZD": torch.zeros(1, 4, 2)}, "codebook_ZD: must be codes of 2 channels"),
        ({"codebook_ZD": torch.zeros(0, 2)}, "codebook_ZD: must have at least 1 code, got 0"),
        ({"codebook_ZD": torch.zeros(4, 2).half()}, "codebook_ZD: must be torch.float32 as x_MD is"),
        ({"codebook_ZD": torch.zeros(4, 2, device="meta")}, "codebook_ZD: must be on cpu as x_MD is"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    arguments = {"x_MD": torch.zeros(3, 2), "codebook_ZD": torch.zeros(4, 2)}
    with pytest.raises(ReelmError, match=f"^{message}"):
        nearest_code(**(arguments | changes))
