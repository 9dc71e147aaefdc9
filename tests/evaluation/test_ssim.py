"""SSIM against scikit-image's, MS-SSIM against a plain twin."""

import numpy as np
import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.evaluation.ssim import WEIGHTS, ms_ssim, ssim


def pairs(height, width, count=2):
    """Smooth pictures and the same with noise, from 0 to 255: (B, 3, H, W) float32 each."""
    random = torch.Generator().manual_seed(height)
    noise = torch.randn(2, count, 3, height, width, generator=random)
    images = 128 + 160 * torch.nn.functional.avg_pool2d(noise[0], 7, 1, 3)
    return images.clamp(0, 255).round(), (images + 14 * noise[1]).clamp(0, 255).round()


@pytest.mark.parametrize("size", [(11, 11), (11, 40), (45, 32)])
def test_ssim_is_that_of_the_paper_over_positions_inside_the_picture(size):
    measure = pytest.importorskip("skimage.metrics").structural_similarity
    images, others = pairs(*size)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = [
        measure(one, other, channel_axis=2, **options)
        for one, other in zip(*(part.movedim(1, -1).double().numpy() for part in (images, others)), strict=True)
    ]
    assert ssim(images, others).tolist() == pytest.approx(expected, abs=1e-5)
    assert min(expected) < 0.9 and ssim(images, images).tolist() == pytest.approx([1, 1])


def plain_means(x, y):
    """Mean SSIM and contrast-structure of two planes in double precision, window by window."""
    offsets = np.exp(-((np.arange(11) - 5.0) ** 2) / 4.5)
    window = np.outer(offsets, offsets) / offsets.sum() ** 2

    def mean(plane):
        return np.einsum("ijkl,kl->ij", np.lib.stride_tricks.sliding_window_view(plane, (11, 11)), window)

    variances = mean(x * x) - mean(x) ** 2 + mean(y * y) - mean(y) ** 2
    structure = (2 * (mean(x * y) - mean(x) * mean(y)) + 58.5225) / (variances + 58.5225)
    return (
        structure * (2 * mean(x) * mean(y) + 6.5025) / (mean(x) ** 2 + mean(y) ** 2 + 6.5025)
    ).mean(), structure.mean()


def test_ms_ssim_is_the_product_over_five_scales():
    images, others = pairs(177, 176, 1)
    planes, expected = [part[0].double().numpy() for part in (images, others)], 1.0
    for scale, weight in enumerate(WEIGHTS):
        means = np.mean([plain_means(*channels) for channels in zip(*planes, strict=True)], axis=0)
        expected *= means[0 if scale == 4 else 1] ** weight
        planes = [part[:, : part.shape[1] // 2 * 2, : part.shape[2] // 2 * 2] for part in planes]
        planes = [(p[:, ::2, ::2] + p[:, 1::2, ::2] + p[:, ::2, 1::2] + p[:, 1::2, 1::2]) / 4 for p in planes]
    assert float(ms_ssim(images, others)) == pytest.approx(expected, abs=1e-5)
    inverse = 255 - images  # structure is negative at every scale
    assert float(ms_ssim(images, inverse)) == 0 and float(ms_ssim(images, images)) == pytest.approx(1)


def test_constant_pictures_have_finite_values_and_small_ones_are_refused():
    black, white = torch.zeros(1, 3, 176, 176), torch.full((1, 3, 176, 176), 255.0)
    assert float(ssim(black, white)) == pytest.approx(6.5025 / (255**2 + 6.5025), abs=1e-6)
    assert float(ssim(white, white)) == float(ms_ssim(black, black)) == 1
    for measure, least in ((ssim, 11), (ms_ssim, 176)):
        with pytest.raises(ReelmError, match=rf"images: must be .* of at least {least} pixels a side"):
            measure(black[..., : least - 1], white[..., : least - 1])
        with pytest.raises(ReelmError, match="others: must be"):
            measure(black, white[:, :, 1:])
