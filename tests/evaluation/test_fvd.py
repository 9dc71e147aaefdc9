"""The Fréchet distance against its closed form, and FVD by a tiny network of the signature of I3D."""

import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.evaluation.fvd import Fvd, frechet_distance


def spread(deviations, mean):
    """Points with exactly this mean and diagonal covariance."""
    scaled = torch.diag(torch.tensor(deviations, dtype=torch.float64)) * ((2 * len(deviations) - 1) / 2) ** 0.5
    return torch.cat([scaled, -scaled]) + torch.tensor(mean, dtype=torch.float64)


def test_the_distance_of_diagonal_gaussians():
    first, other = spread([1.0, 2.0, 0.5], [0.0, 1.0, 0.0]), spread([3.0, 2.0, 0.1], [2.0, 1.0, -1.0])
    assert torch.allclose(torch.cov(first.T), torch.diag(torch.tensor([1.0, 4.0, 0.25], dtype=torch.float64)))
    wanted = 2**2 + 1 + (3 - 1) ** 2 + 0 + (0.5 - 0.1) ** 2
    assert frechet_distance(first, other) == pytest.approx(wanted)
    assert frechet_distance(other, first) == pytest.approx(wanted)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_the_distance_of_correlated_gaussians_is_that_of_the_formula():
    random = torch.Generator().manual_seed(0)
    first, other = (torch.randn(n, 4, generator=random).double() @ torch.randn(4, 4, generator=random).double()
                    for n in (9, 30))  # fmt: skip
    one, two = torch.cov(first.T), torch.cov(other.T)
    root = torch.linalg.eigvals(one @ two).real.clamp(min=0).sqrt().sum()
    wanted = (first.mean(0) - other.mean(0)).square().sum() + one.trace() + two.trace() - 2 * root
    assert frechet_distance(first, other) == pytest.approx(float(wanted))
    # Fewer clips than features is the usual case, and moving both sets alike changes nothing.
    wide = torch.randn(3, 50, generator=random)
    assert frechet_distance(wide, wide + 2) == pytest.approx(4 * 50, rel=1e-6)


class Moments(torch.nn.Module):
    """The signature of i3d_torchscript.pt; features are the mean of each channel, and the number of frames."""

    def forward(
        self, videos: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        assert rescale and resize and return_features
        frames = torch.full([len(videos), 1], float(videos.shape[2]))
        return torch.cat([videos.mean((2, 3, 4)) / 255, frames], 1)


@pytest.fixture
def weights(tmp_path):
    torch.jit.script(Moments()).save(tmp_path / "moments.pt")
    return tmp_path / "moments.pt"


def grey(value, frames=12, size=8):
    return torch.full((frames, size, size, 3), value, dtype=torch.uint8)


def test_clips_of_several_sizes_and_lengths_are_cut_to_one(weights):
    fvd = Fvd(weights, frames=10)
    fvd.add(grey(0), grey(51))
    fvd.add(grey(51, 10, 16), grey(102, 10, 16))
    fvd.add(grey(200, 9), grey(0, 9))  # too short
    told = fvd.figures()
    assert told["fvd"] == pytest.approx(3 * 0.2**2)
    assert (told["fvd_n"], told["fvd_frames"], told["fvd_left_out"]) == (2, 10, 1)


def test_of_fewer_than_two_clips_the_numbers_are_told_and_no_distance(weights):
    fvd = Fvd(weights)
    assert fvd.figures() == {"fvd": None, "fvd_n": 0, "fvd_frames": 16, "fvd_left_out": 0, "fvd_not_finite": 0}
    fvd.add(grey(0, 16), grey(0, 16))
    fvd.add(grey(0, 15), grey(0, 15))
    assert fvd.figures() == {"fvd": None, "fvd_n": 1, "fvd_frames": 16, "fvd_left_out": 1, "fvd_not_finite": 0}
    fvd.add(grey(0, 16), grey(51, 16))
    assert fvd.figures()["fvd"] > 0


def test_what_is_refused(weights):
    with pytest.raises(ReelmError, match=r"^max_frames: must be at least 10 for FVD, got 9"):
        Fvd(weights, frames=9)
    with pytest.raises(ReelmError, match=r"^features: must be \(N, D\) of at least 2 rows, and of the same D"):
        frechet_distance(torch.zeros(2, 3), torch.zeros(2, 4))
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ReelmError, match=r"^features: must be finite"):
            frechet_distance(torch.zeros(2, 3), torch.full((2, 3), bad))
    with pytest.raises(ReelmError, match=r"^fvd_weights: must be a file that exists"):
        Fvd(weights.with_name("none.pt"))


class Fragile(torch.nn.Module):
    """A network without features of pictures that are one grey (0 / 0), and another that has none at all."""

    def __init__(self, always: bool):
        super().__init__()
        self.always = always

    def forward(
        self, videos: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        flat = videos.flatten(1)
        return (flat - flat.mean()).square().sum(1, keepdim=True) / (flat.std() * float(not self.always))


def test_features_that_are_not_finite_cost_fvd_alone_and_a_network_without_any_is_refused_at_once(tmp_path, capsys):
    for always in (False, True):
        torch.jit.script(Fragile(always)).save(tmp_path / f"{always}.pt")
    with pytest.raises(ReelmError, match=r"^fvd_weights: must be a network with finite features"):
        Fvd(tmp_path / "True.pt", frames=10)
    fvd = Fvd(tmp_path / "False.pt", frames=10)
    noise = torch.randint(256, (3, 10, 8, 8, 3), dtype=torch.uint8)
    for other in (noise[1], noise[2], grey(7, 10)):
        fvd.add(noise[0], other)
    figures = fvd.figures()
    assert figures["fvd"] is None and (figures["fvd_n"], figures["fvd_not_finite"]) == (2, 1)
    assert "warning: fvd: the network gave features that are not finite for 1 clips: no FVD" in capsys.readouterr().err
