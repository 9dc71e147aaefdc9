"""`rms_norm` in its short form against torch's."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from reelm.kernels.norm import RMSNorm, rms_norm


@given(
    st.integers(1, 5), st.integers(1, 9), st.integers(1, 70), st.sampled_from([1e-4, 1.0, 300.0]), st.integers(0, 99)
)
def test_without_gradients_it_is_as_near_to_the_truth_as_torch(rows, heads, width, size, seed):
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(rows, heads, width, generator=generator) * size, torch.randn(width, generator=generator)
    truth = F.rms_norm(x.double(), (width,), weight.double(), 1e-6)
    with torch.no_grad():
        lean, plain = rms_norm(x, weight, 1e-6), F.rms_norm(x, (width,), weight, 1e-6)
    least = 1e-6 * truth.abs().max()
    assert (lean - truth).abs().max() <= 2 * (plain - truth).abs().max() + least


@pytest.mark.parametrize("grad", [True, False])
def test_a_weight_for_each_head(grad):
    x, weight = torch.randn(2, 3, 4, 8), torch.rand(4, 8)
    with torch.set_grad_enabled(grad):
        together = rms_norm(x, weight, 1e-6)
    for head in range(4):
        torch.testing.assert_close(together[:, :, head], F.rms_norm(x[:, :, head], (8,), weight[head], 1e-6))


def test_gradients_are_those_of_torch():
    norm, x = RMSNorm(6, eps=1e-6), torch.randn(3, 6, requires_grad=True)
    (norm(x) ** 3).sum().backward()
    other = x.detach().clone().requires_grad_()
    (F.rms_norm(other, (6,), norm.weight, 1e-6) ** 3).sum().backward()
    torch.testing.assert_close(x.grad, other.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_stay_what_they_are(dtype):
    x, weight = torch.randn(3, 8).to(dtype), torch.rand(8).to(dtype)
    with torch.no_grad():
        out = rms_norm(x, weight, 1e-6)
    assert out.dtype == dtype
    torch.testing.assert_close(out, F.rms_norm(x, (8,), weight, 1e-6))
