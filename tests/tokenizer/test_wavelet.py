import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.tests.examples import examples
from reelm.tokenizer.wavelet import haar, inverse_haar

SIDES = st.sampled_from([1, 2, 4, 8])


@given(SIDES, SIDES, SIDES, st.integers(0, 99))
@examples(40)
def test_it_is_orthonormal_and_comes_back(t, h, w, seed):
    x = torch.randn(2, t, 3, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    bands = haar(x, (1, 3, 4))
    assert bands.shape == x.shape
    assert torch.allclose(inverse_haar(bands, (1, 3, 4)), x)
    assert torch.isclose(bands.square().sum(), x.square().sum())


def test_bands_of_known_signals():
    assert torch.allclose(haar(torch.tensor([3.0, 3, 3, 3]), (0,)), torch.tensor([6.0, 0, 0, 0]))
    # Halves that differ are the coarse band; neighbours that differ are the fine ones, each at its place.
    assert torch.allclose(haar(torch.tensor([1.0, 1, -1, -1]), (0,)), torch.tensor([0.0, 2, 0, 0]))
    expected = torch.tensor([0.0, 0, 2**0.5, 0])
    assert torch.allclose(haar(torch.tensor([1.0, -1, 0, 0]), (0,)), expected)


@pytest.mark.parametrize("dims", [(1,), (2,), (1, 2)])
def test_only_the_named_dimensions_are_touched(dims):
    x = torch.randn(4, 4, 4)
    changed = haar(x, dims)
    assert torch.allclose(changed[2], haar(x[2], tuple(dim - 1 for dim in dims)))
    assert not torch.allclose(changed, x)
