"""SSIM and MS-SSIM of pictures, by one definition that does not depend on the version of a library.

ssim(images_B3HW, others_B3HW)          # (B,), 1 where they are equal
ms_ssim(images_B3HW, others_B3HW)       # (B,)

SSIM is that of Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity": local
means, variances and the covariance under a Gaussian window of 11 x 11 pixels with a standard deviation of 1.5, K1 =
0.01, K2 = 0.03, and values from 0 to 255. The paper measures grey pictures; here it is the mean over the three colour
channels, as usual for RGB. As in the authors' own program, only positions whose window lies inside the picture count;
libraries that reflect the picture at its borders differ by about 0.001. scikit-image gives the same with
`gaussian_weights=True, sigma=1.5, use_sample_covariance=False`.

MS-SSIM is that of Wang, Simoncelli and Bovik 2003, "Multiscale structural similarity for image quality assessment":
the product, over five scales that are each half as large as the one before (averages of 2 x 2 pixels), of the mean
contrast-structure factor, at the last scale of the mean SSIM, each to the power of its weight. A mean below 0, which
has no such power, counts as 0.
"""

import torch
import torch.nn.functional as F

from ..core.errors import require

WINDOW = 11  # pixels along a side of the window
SIGMA = 1.5
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales of MS-SSIM, from fine to coarse
MS_SSIM_LEAST_SIDE = WINDOW * 2 ** (len(WEIGHTS) - 1)  # pixels: the window must fit into the last scale


def ssim(images_B3HW: torch.Tensor, others_B3HW: torch.Tensor) -> torch.Tensor:
    """Return the SSIM (B,) of each picture and its counterpart: floats from 0 to 255, at least 11 pixels a side.

    Raises:
        ReelmError: The pictures are smaller, or of different shapes.
    """
    _check(images_B3HW, others_B3HW, WINDOW)
    return _means(images_B3HW, others_B3HW)[0]


def ms_ssim(images_B3HW: torch.Tensor, others_B3HW: torch.Tensor) -> torch.Tensor:
    """Return the MS-SSIM (B,) of each picture and its counterpart: floats from 0 to 255, at least 176 pixels a side.

    Raises:
        ReelmError: The pictures are smaller, or of different shapes.
    """
    _check(images_B3HW, others_B3HW, MS_SSIM_LEAST_SIDE)
    product_B = images_B3HW.new_ones(len(images_B3HW))
    for scale, weight in enumerate(WEIGHTS):
        similarity_B, structure_B = _means(images_B3HW, others_B3HW)
        last = scale == len(WEIGHTS) - 1
        product_B = product_B * (similarity_B if last else structure_B).clamp(min=0) ** weight
        images_B3HW, others_B3HW = F.avg_pool2d(images_B3HW, 2), F.avg_pool2d(others_B3HW, 2)
    return product_B


def _check(images_B3HW: torch.Tensor, others_B3HW: torch.Tensor, least: int) -> None:
    shape = tuple(images_B3HW.shape)
    fits = len(shape) == 4 and shape[1] == 3 and min(shape[2:]) >= least
    require(fits, "images", f"must be (batch, 3, height, width) of at least {least} pixels a side", shape)
    require(others_B3HW.shape == images_B3HW.shape, "others", f"must be {shape}", tuple(others_B3HW.shape))


def _means(x_B3HW: torch.Tensor, y_B3HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the means (B,) of SSIM and of its contrast-structure factor over channels and inner positions."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    # Variances are small differences of moments, so values are centred; the means need them back.
    x, y = x_B3HW - 127.5, y_B3HW - 127.5
    mean_x, mean_y, xx, yy, xy = (_blur(part) for part in (x, y, x * x, y * y, x * y))
    deviations = (xx - mean_x * mean_x) + (yy - mean_y * mean_y)
    structure = (2 * (xy - mean_x * mean_y) + c2) / (deviations + c2)
    mean_x, mean_y = mean_x + 127.5, mean_y + 127.5
    similarity = structure * (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    return similarity.flatten(1).mean(1), structure.flatten(1).mean(1)


def _blur(images_B3HW: torch.Tensor) -> torch.Tensor:
    """Return the averages under the Gaussian window at the positions where it lies inside the picture."""
    offsets = torch.arange(WINDOW, dtype=images_B3HW.dtype, device=images_B3HW.device) - WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    window = window / window.sum()
    planes = images_B3HW.flatten(0, 1).unsqueeze(1)
    planes = F.conv2d(F.conv2d(planes, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    return planes.squeeze(1).unflatten(0, images_B3HW.shape[:2])
