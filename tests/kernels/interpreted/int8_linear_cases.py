"""`int8_linear` in Triton's interpreter (conftest.py tells how)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.kernels import int8_linear_triton
from reelm.kernels.int8_linear import int8_linear
from reelm.kernels.quantize import quantize


def draw(dtype, M, outputs, channels, seed=0):
    random, device = torch.Generator().manual_seed(seed), torch.empty(0).device
    x_MI, weight_OI = (torch.randn(size, channels, generator=random, device="cpu").to(device) for size in (M, outputs))
    return x_MI.to(dtype), *quantize(weight_OI)


def check(check_error, dtype, M, outputs, channels, seed=0):
    x_MI, whole_OI, scales_O = draw(dtype, M, outputs, channels, seed)
    y_MO = int8_linear(x_MI, whole_OI, scales_O, backend="triton")
    weight_OI = whole_OI.double() * scales_O.double()[:, None]
    exact_MO, plain_MO = x_MI.double() @ weight_OI.T, int8_linear(x_MI, whole_OI, scales_O, backend="reference")
    terms = (x_MI.double().abs() @ weight_OI.abs().T).norm()
    check_error(y_MO, plain_MO, exact_MO, terms=float(terms))


SIZES = [
    # dtype, M, outputs, channels
    pytest.param(torch.float32, 1, 1, 1, id="one of each"),
    pytest.param(torch.float32, 2, 17, 130, id="a block and one more of outputs and channels"),
    pytest.param(torch.float32, 17, 16, 128, id="two blocks of rows"),
    pytest.param(torch.float32, 65, 65, 33, id="many rows"),
    pytest.param(torch.bfloat16, 2, 40, 600, id="bf16"),
    pytest.param(torch.float16, 33, 70, 65, id="fp16"),
]


@pytest.mark.parametrize(("dtype", "M", "outputs", "channels"), SIZES)
def test_int8_linear(check_error, dtype, M, outputs, channels):
    check(check_error, dtype, M, outputs, channels)


def test_sizes_that_hypothesis_draws(check_error, examples):
    dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])

    @examples
    @given(dtypes, st.integers(1, 80), st.integers(1, 80), st.integers(1, 300), st.integers(0, 1000))
    def is_right(dtype, M, outputs, channels, seed):
        check(check_error, dtype, M, outputs, channels, seed)

    is_right()


@pytest.mark.parametrize(("M", "outputs"), [(0, 5), (5, 0)])
def test_nothing_gives_nothing(M, outputs):
    assert int8_linear(*draw(torch.float32, M, outputs, 8), backend="triton").shape == (M, outputs)


def test_whole_numbers_are_exact():
    # Small integers and scales of powers of two: a padded channel, row or output that counted would show.
    whole_OI = torch.arange(-127, 128).repeat(2)[: 37 * 12].view(37, 12).to(torch.int8)
    x_MI, scales_O = torch.arange(36.0).view(3, 12) - 20, 2.0 ** (torch.arange(37) % 5 - 2)
    for dtype in (torch.float32, torch.bfloat16):
        y_MO = int8_linear(x_MI.to(dtype), whole_OI, scales_O, backend="triton")
        exact_MO = (x_MI.double() @ whole_OI.double().T) * scales_O
        assert torch.equal(y_MO, exact_MO.to(dtype))


def test_what_lies_outside_is_not_read():
    x_MI, whole_OI, scales_O = draw(torch.float32, 5, 20, 40)
    around = torch.full((9, 50), float("nan"))
    around[2:7, :40] = x_MI
    more_OI = torch.cat([whole_OI, torch.full((20, 7), 127, dtype=torch.int8)], 1)
    y_MO = int8_linear(around[2:7, :40], more_OI[:, :40], scales_O, backend="triton")
    assert torch.equal(y_MO, int8_linear(x_MI, whole_OI, scales_O, backend="triton"))


def test_a_row_is_the_same_beside_others_of_its_block():
    x_MI, whole_OI, scales_O = draw(torch.float32, 16, 20, 70)
    together = int8_linear(x_MI, whole_OI, scales_O, backend="triton")
    for row in (0, 7, 15):
        alone = int8_linear(x_MI[row : row + 1], whole_OI, scales_O, backend="triton")
        torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-6, atol=1e-6)


def test_the_reference_is_not_run(monkeypatch):
    ran = []
    monkeypatch.setattr(int8_linear_triton, "int8_linear_triton", lambda *args: ran.append(args))
    int8_linear(*draw(torch.float32, 1, 2, 3), backend="triton")
    assert len(ran) == 1
    int8_linear(*draw(torch.float64, 1, 2, 3), backend="triton")
    assert len(ran) == 1, "float64 goes to the reference"
