"""The one rule by which keys and values become int8."""

import pytest
import torch

from reelm.kernels.quantize import quantize


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_number_is_off_by_half_a_step_at_most(dtype):
    x = (torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    whole, scales = quantize(x)
    assert (whole.dtype, scales.dtype, scales.shape) == (torch.int8, torch.float32, (3, 5))
    steps = scales.double()[..., None]
    assert ((whole.double() * steps - x.double()).abs() <= steps * 0.50001).all()
    assert (whole.abs().amax(-1) == 127).all()


def test_zeros_and_numbers_with_few_bits():
    x = torch.tensor([[0.0, 0.0], [1e-45, -1e-45], [3e-38, 1e-38]])
    whole, scales = quantize(x)
    assert whole[0].tolist() == [0, 0] and scales[0] == 1
    assert (whole.abs() <= 127).all() and scales.isfinite().all()
