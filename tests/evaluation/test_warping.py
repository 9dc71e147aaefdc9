"""The warping error: of what moves as the truth does, of what does not, and where nothing can be told."""

import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from reelm.core.errors import ReelmError
from reelm.evaluation import warping
from reelm.evaluation.warping import load_warping

pytest.importorskip("skimage")


def moving(frames, height=48, width=64):
    """A smooth texture that moves 2 pixels to the right and 1 down from frame to frame."""
    random = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, height // 4 + frames, width // 4 + frames, generator=random)
    picture = F.interpolate(noise, scale_factor=4, mode="bicubic").clamp(0, 1)[0]
    places = [(frames - at, 2 * (frames - at)) for at in range(frames)]
    return torch.stack([
        (255 * picture[:, top : top + height, left : left + width]).round().byte().movedim(0, -1)
        for top, left in places
    ])  # fmt: skip


def test_what_moves_as_the_truth_has_little_error_and_a_crawl_has_its_own():
    truth = moving(4)
    told = load_warping()(truth, truth)
    assert told["warping_error"] == told["warping_error_of_the_truth"] < 1e-4
    assert float((truth[1:].float() - truth[:-1].float()).square().mean() / 255**2) > 1e-2  # without the flow
    assert 0.7 < told["warping_trusted"] < 1
    # An offset that comes and goes moves no pixel, and is all of the error.
    crawl = torch.stack([(frame // 2 + 20 * (at % 2)).byte() for at, frame in enumerate(truth)])
    assert load_warping()(truth, crawl)["warping_error"] == pytest.approx((20 / 255) ** 2, rel=0.05)
    # What stands still while the truth moves is carried away by the flow.
    assert load_warping()(truth, truth[:1].expand_as(truth))["warping_error"] > 1e-2


def test_what_appears_from_nowhere_is_not_compared():
    truth, behind = moving(2), moving(5).flip(2)[0]
    trusted = load_warping()(truth, truth)["warping_trusted"]
    for at, left in enumerate((24, 19)):  # a square that moves against the rest, and covers and uncovers it
        truth[at, 14:34, left : left + 20] = behind[:20, :20]
    told = load_warping()(truth, truth)
    assert told["warping_trusted"] < trusted - 0.1
    assert told["warping_error_of_the_truth"] < 1e-3
    cut = load_warping()(torch.stack([truth[0], behind]), truth)
    assert cut["warping_trusted"] < 0.1


def test_no_more_pairs_and_pixels_than_said(monkeypatch):
    seen = []

    def pair(truth, shown, flow):
        seen.append(tuple(truth.shape))
        return (1.0, 2.0), 0.5

    monkeypatch.setattr(warping, "_pair", pair)
    told = load_warping()(torch.zeros(40, 512, 1024, 3, dtype=torch.uint8), torch.zeros(40, 512, 1024, 3))
    assert seen == [(2, 3, 256, 512)] * 8
    assert told == {"warping_error": 2.0, "warping_error_of_the_truth": 1.0, "warping_trusted": 0.5}


def test_what_has_no_flow_has_no_error(monkeypatch):
    empty = {"warping_error": None, "warping_error_of_the_truth": None, "warping_trusted": None}
    for shape in ((1, 32, 32, 3), (3, 15, 32, 3)):
        assert load_warping()(*(torch.zeros(shape, dtype=torch.uint8),) * 2) == empty
    still = torch.full((2, 16, 16, 3), 90, dtype=torch.uint8)
    assert load_warping()(still, still)["warping_error"] == 0
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8))
    monkeypatch.setattr(warping, "_pair", lambda *_: ((float("nan"),) * 2, 0.0))
    assert load_warping()(noise, noise) == empty | {"warping_trusted": 0.0}
    monkeypatch.setitem(sys.modules, "skimage.registration", None)
    with pytest.raises(ReelmError, match=r"^evaluate: needs scikit-image: in a clone .* pip install -c "):
        load_warping()
