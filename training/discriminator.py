"""A small discriminator of clips, and the hinge losses between it and a decoder.

    discriminator = Discriminator()
    ours = -discriminator(made_BTHW3).mean()                  # what the decoder lowers
    its = hinge(discriminator(frames_BTHW3), discriminator(made_BTHW3.detach()))

It scores patches in space and time (as pix2pix does those of pictures, Isola et al. 2017, arXiv 1611.07004): a score
sees 38 rows and columns of pixels and 17 frames. Every layer has spectral normalisation (Miyato et al. 2018, arXiv
1802.05957), so that no score can be steep in the pixels; there is no penalty on gradients beside it.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

LEAST = 8  # rows and columns of pixels that the strides need
WIDTHS = (32, 64, 128)


class Discriminator(nn.Module):
    """Clips in [0, 1] to scores of their patches: high for clips that look real."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (channels, width) in enumerate(zip((3, *WIDTHS), WIDTHS, strict=False)):
            # Kernels of 4 over strides of 2 see every pixel equally often. The first layer keeps all frames.
            stride = (1 if index == 0 else 2, 2, 2)
            layers += [spectral_norm(nn.Conv3d(channels, width, (3, 4, 4), stride, padding=1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv3d(WIDTHS[-1], 1, 3, padding=1)))

    def forward(self, frames_BTHW3: torch.Tensor) -> torch.Tensor:
        """(B, T, H, W, 3), of at least LEAST rows and columns, to (B, 1, t, h, w)."""
        # The norm is found by products that must not be rounded, and torch computes it inside of the layers.
        with torch.autocast(frames_BTHW3.device.type, enabled=False):
            return self.layers(frames_BTHW3.float().movedim(-1, 1) * 2 - 1)


def hinge(real: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """What a discriminator lowers: real clips score up to 1, made ones to -1 (Lim and Ye 2017, arXiv 1705.02894)."""
    return F.relu(1 - real).mean() + F.relu(1 + made).mean()
