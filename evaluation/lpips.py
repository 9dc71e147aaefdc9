"""LPIPS (Zhang et al. 2018, arXiv 1801.03924), the perceptual distance of two pictures, with a user's network.

lpips = load_lpips("vgg16.pt")
lpips(images_B3HW, others_B3HW)        # (B,), 0 where they are equal

The file (saved_networks.py) has the signature of the vgg16.pt of StyleGAN's metrics (StyleGAN2-ADA and StyleGAN3):
`net(images, resize_images=False, return_lpips=True)` takes floats (B, 3, H, W) from 0 to 255 and returns features
(B, D), whose squared distance is LPIPS. Nothing is downloaded.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from ..core.errors import require
from .saved_networks import call_network, load_network

Lpips = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
LEAST_SIDE = 16  # pixels: VGG halves the picture four times


def load_lpips(path: str | Path, *, device: str | torch.device = "cpu", argument: str = "lpips_weights") -> Lpips:
    """Load a function that returns the LPIPS of each picture of a batch and its counterpart in another batch.

    The pictures are floats (B, 3, H, W) from 0 to 255 on `device`, whose sides are at least `LEAST_SIDE` pixels; the
    result is (B,). It has a gradient with respect to the pictures, and none with respect to the network's weights.

    Args:
        path: The file of the network.
        device: The device of the network.
        argument: The name of the option that gives the file, for error messages.

    Raises:
        ReelmError: There is no such file, or it is not a network. The function raises it where the shapes of the
            pictures differ, or the network takes or returns something else.
    """
    net = load_network(path, argument, device=device)

    def lpips(images_B3HW: torch.Tensor, others_B3HW: torch.Tensor) -> torch.Tensor:
        shape = tuple(images_B3HW.shape)
        fits = len(shape) == 4 and shape[1] == 3 and min(shape[2:]) >= LEAST_SIDE
        require(fits, "images", f"must be (N, 3, H, W) of at least {LEAST_SIDE} pixels a side", shape)
        require(others_B3HW.shape == images_B3HW.shape, "others", f"must be {shape}", tuple(others_B3HW.shape))
        pair = [
            call_network(net, argument, part.float(), resize_images=False, return_lpips=True)
            for part in (images_B3HW, others_B3HW)
        ]
        return (pair[0] - pair[1]).square().sum(1)

    return lpips
