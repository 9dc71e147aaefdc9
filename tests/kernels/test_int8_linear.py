"""`int8_linear` on the reference, against float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.kernels.int8_linear import int8_linear
from reelm.kernels.quantize import quantize
from reelm.tests.examples import examples


@examples(60)
@given(
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    st.integers(0, 40), st.integers(1, 50), st.integers(1, 70), st.integers(0, 1000),
)  # fmt: skip
def test_it_is_the_product_with_the_whole_numbers(dtype, M, outputs, channels, seed):
    random = torch.Generator().manual_seed(seed)
    x_MI, weight_OI = (torch.randn(size, channels, generator=random) for size in (M, outputs))
    (whole_OI, scales_O), x_MI = quantize(weight_OI), x_MI.to(dtype)
    y_MO = int8_linear(x_MI, whole_OI, scales_O, backend="reference")
    exact_MO = x_MI.double() @ (whole_OI.double() * scales_O.double()[:, None]).T
    assert y_MO.dtype == dtype and y_MO.shape == (M, outputs)
    # Sums are made in float32 at least, and rounded once.
    terms_MO = x_MI.double().abs() @ (whole_OI.double() * scales_O.double()[:, None]).abs().T
    bound_MO = torch.finfo(dtype).eps / 2 * exact_MO.abs() + 2.0**-22 * terms_MO + 1e-7
    assert ((y_MO.double() - exact_MO).abs() <= bound_MO).all()


def test_it_is_near_the_product_with_the_weights():
    x_MI, weight_OI = torch.randn(2, 64, 256, generator=torch.Generator().manual_seed(0))
    off_MO = int8_linear(x_MI, *quantize(weight_OI)) - x_MI @ weight_OI.T
    assert 1e-3 < off_MO.norm() / (x_MI @ weight_OI.T).norm() < 0.01


X, WHOLE, SCALES = torch.zeros(3, 4), torch.zeros(5, 4, dtype=torch.int8), torch.zeros(5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_MI": torch.zeros(4)}, "x_MI: must be rows of at least 1 channel"),
        ({"x_MI": torch.zeros(3, 0)}, "x_MI: must be rows of at least 1 channel"),
        ({"x_MI": torch.zeros(3, 4, dtype=torch.int8)}, "x_MI: must be of a floating-point dtype"),
        ({"x_MI": torch.zeros(4, 3).T}, "x_MI: must be contiguous along its last axis"),
        ({"whole_OI": torch.zeros(5, dtype=torch.int8)}, "whole_OI: must have 2 dimensions"),
        ({"whole_OI": WHOLE[:, :3]}, "whole_OI: must have the shape"),
        ({"whole_OI": WHOLE.float()}, "whole_OI: must be torch.int8"),
        ({"whole_OI": torch.zeros(4, 5, dtype=torch.int8).T}, "whole_OI: must be contiguous along its last axis"),
        ({"scales_O": SCALES[:4]}, "scales_O: must have the shape"),
        ({"scales_O": SCALES.double()}, "scales_O: must be torch.float32"),
        ({"scales_O": torch.zeros(10)[::2]}, "scales_O: must be contiguous along its last axis"),
        ({"scales_O": SCALES.to("meta")}, "scales_O: must be on cpu as x_MI is"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    arguments = {"x_MI": X, "whole_OI": WHOLE, "scales_O": SCALES}
    with pytest.raises(ReelmError, match=f"^{message}"):
        int8_linear(**(arguments | changes))
