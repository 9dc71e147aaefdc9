"""A small discriminator of clips, and the hinge losses between it and a decoder.

    discriminator = Discriminator()
    decoder_loss = -discriminator(made_BTHW3).mean()
    discriminator_loss = hinge(discriminator(frames_BTHW3), discriminator(made_BTHW3.detach()))

It scores patches in space and time, as pix2pix scores patches of pictures (Isola et al. 2017, arXiv 1611.07004): the
receptive field of a score is 38 rows and columns of pixels and 17 frames. Every layer has spectral normalisation
(Miyato et al. 2018, arXiv 1802.05957), which bounds the gradient of a score with respect to the pixels; there is no
gradient penalty.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

LEAST_SIDE = 8  # rows and columns of pixels that the strides need
WIDTHS = (32, 64, 128)


class Discriminator(nn.Module):
    """A network that scores the patches of clips in [0, 1]: the score is high where a clip looks real."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (channels, width) in enumerate(zip((3, *WIDTHS), WIDTHS, strict=False)):
            # Kernels of 4 with strides of 2 cover every pixel equally often. The first layer keeps all frames.
            stride = (1 if index == 0 else 2, 2, 2)
            layers += [spectral_norm(nn.Conv3d(channels, width, (3, 4, 4), stride, padding=1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv3d(WIDTHS[-1], 1, 3, padding=1)))

    def forward(self, frames_BTHW3: torch.Tensor) -> torch.Tensor:
        """Return the scores (B, 1, t, h, w) of clips (B, T, H, W, 3) of at least `LEAST_SIDE` rows and columns."""
        # torch computes the spectral norm inside the layers, by products that must not be rounded.
        with torch.autocast(frames_BTHW3.device.type, enabled=False):
            return self.layers(frames_BTHW3.float().movedim(-1, 1) * 2 - 1)


def hinge(real: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """Return the hinge loss of a discriminator (Lim and Ye 2017, arXiv 1705.02894) from its scores.

    It is 0 where real clips score at least 1 and made ones at most -1.
    """
    return F.relu(1 - real).mean() + F.relu(1 + made).mean()
