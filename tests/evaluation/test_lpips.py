"""LPIPS by a file of the user's: its contract, its gradient, and what is refused."""

import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.evaluation.lpips import load_lpips


class Means(torch.nn.Module):
    """The signature of vgg16.pt; features are the means over halves of the picture, in units of the range."""

    def forward(self, images: torch.Tensor, resize_images: bool = True, return_lpips: bool = False) -> torch.Tensor:
        assert return_lpips and not resize_images
        return torch.cat([images[..., ::2].mean((2, 3)), images[..., 1::2].mean((2, 3))], 1) / 255


@pytest.fixture
def weights(tmp_path):
    torch.jit.script(Means()).save(tmp_path / "means.pt")
    return tmp_path / "means.pt"


def test_it_is_the_squared_distance_of_the_features(weights):
    lpips = load_lpips(weights)
    images = torch.zeros(2, 3, 16, 16)
    others = images.clone()
    others[1, 0] = 51.0  # a fifth of the range in one channel, in both halves
    assert torch.allclose(lpips(images, others), torch.tensor([0.0, 2 * 0.2**2]))
    assert torch.equal(lpips(images.byte(), others.byte()), lpips(images, others))


def test_it_has_a_gradient_of_the_pictures_alone(weights):
    lpips = load_lpips(weights)
    images = torch.full((1, 3, 16, 16), 100.0, requires_grad=True)
    lpips(images, torch.zeros(1, 3, 16, 16)).sum().backward()
    # d/dx of (mean / 255)^2 over the 128 pixels of a half.
    assert torch.allclose(images.grad, torch.full_like(images, 2 * 100 / 255**2 / 128))


def test_what_is_refused(weights, tmp_path):
    with pytest.raises(ReelmError, match=r"^lpips_weights: must be a file that exists, got"):
        load_lpips(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(ReelmError, match=r"^perceptual_weights: must be a TorchScript file or an exported program"):
        load_lpips(tmp_path / "text.pt", argument="perceptual_weights")
    lpips, images = load_lpips(weights), torch.zeros(1, 3, 16, 16)
    with pytest.raises(ReelmError, match=r"^images: must be \(N, 3, H, W\) of at least 16 pixels a side"):
        lpips(images[..., :15], images[..., :15])
    with pytest.raises(ReelmError, match=r"^others: must be \(1, 3, 16, 16\), got"):
        lpips(images, images[..., :15])

    class Pictures(torch.nn.Module):
        def forward(self, images: torch.Tensor, resize_images: bool, return_lpips: bool) -> torch.Tensor:
            return images

    class Foreign(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

    for module, message in ((Pictures(), r"must give features \(1, D\)"), (Foreign(), "must be a network that takes")):
        torch.jit.script(module).save(tmp_path / "other.pt")
        with pytest.raises(ReelmError, match=rf"^lpips_weights: {message}"):
            load_lpips(tmp_path / "other.pt")(images, images)
