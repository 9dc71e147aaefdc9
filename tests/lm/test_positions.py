from decimal import Decimal, localcontext
from math import cos, sin

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.kernels.rotary import rotate
from reelm.lm.positions import BASES, axis_pairs, prefix_rotation, video_rotation


@given(st.integers(1, 64))
def test_the_axes_share_the_head(half):
    assert sum(axis_pairs(2 * half)) == half


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 20_000))
def test_a_score_depends_on_the_distance_in_time_alone(first, second, shift):
    h, w, dim = 3, 4, 24
    generator = torch.Generator().manual_seed(first * 1000 + second)
    q, k = torch.randn(2, 1, 1, 1, dim, generator=generator)

    def score(offset):
        at_q, at_k = (video_rotation(torch.tensor([[p + offset * h * w]]), h, w, dim) for p in (first, second))
        return (rotate(q, at_q) * rotate(k, at_k)).sum()

    assert (score(shift) - score(0)).abs() < 1e-4


@pytest.mark.parametrize("t", [0, 10_000, 1_000_000])
def test_far_out_on_the_time_axis_the_angles_are_exact(t):
    pairs = axis_pairs(24)[0]
    found = torch.stack(video_rotation(torch.tensor([[t * 12 + 7]]), 3, 4, 24))[:, 0, 0, 0, :pairs]
    with localcontext(prec=50):
        turn = Decimal("6.28318530717958647692528676655900576839433879875021")
        base = Decimal(BASES["t"])
        angles = [float(t * base ** (-Decimal(pair) / pairs) % turn) for pair in range(pairs)]
    exact = torch.tensor([[cos(angle) for angle in angles], [sin(angle) for angle in angles]])
    assert (found - exact).abs().max() < 1e-6


def test_a_rotation_keeps_lengths_and_tells_places_apart():
    x = torch.randn(1, 48, 1, 24)
    rotation = video_rotation(torch.arange(48)[None], 3, 4, 24)
    turned = rotate(x, rotation)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    same = rotate(x[:, :1].expand(1, 48, 1, 24), rotation)[0, :, 0]
    distances = torch.cdist(same, same) + torch.eye(48) * 9
    assert distances.min() > 1e-2
    assert prefix_rotation(7, 24, torch.device("cpu"))[0].shape == (1, 7, 1, 12)
