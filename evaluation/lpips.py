"""LPIPS (Zhang et al. 2018, arXiv 1801.03924) by a network of the user's: how different two pictures look.

lpips = load_lpips("vgg16.pt")
lpips(images_B3HW, others_B3HW)        # (N,), 0 where they are equal

The file is a TorchScript with the signature of the vgg16.pt of StyleGAN's metrics (StyleGAN2-ADA and StyleGAN3):
`net(images, resize_images=False, return_lpips=True)` takes floats (N, 3, H, W) from 0 to 255 and gives features (N, D),
whose squared distance is LPIPS. Nothing is downloaded.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from ..core.errors import require
from .torchscript import call_script, load_script

Lpips = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
LEAST = 16  # pixels along a side: VGG halves the picture four times


def load_lpips(path: str | Path, *, device: str | torch.device = "cpu", argument: str = "lpips_weights") -> Lpips:
    """A function of two batches of pictures that tells how different they look.

    The pictures are floats (N, 3, H, W) from 0 to 255, of any size from `LEAST` pixels a side, on `device`; the result
    is (N,). It has a gradient with respect to the pictures, and the network's weights have none.

    Args:
        path: the TorchScript file.
        device: where it is to compute.
        argument: what the user calls the file, for refusals.

    Raises:
        ReelmError: there is no such file, or it is no TorchScript; when called, that the pictures differ in shape, or
            that the network takes or gives something else.
    """
    net = load_script(path, argument, device=device)

    def lpips(images_B3HW: torch.Tensor, others_B3HW: torch.Tensor) -> torch.Tensor:
        shape = tuple(images_B3HW.shape)
        fits = len(shape) == 4 and shape[1] == 3 and min(shape[2:]) >= LEAST
        require(fits, "images", f"must be (N, 3, H, W) of at least {LEAST} pixels a side", shape)
        require(others_B3HW.shape == images_B3HW.shape, "others", f"must be {shape}", tuple(others_B3HW.shape))
        pair = [
            call_script(net, argument, part.float(), resize_images=False, return_lpips=True)
            for part in (images_B3HW, others_B3HW)
        ]
        return (pair[0] - pair[1]).square().sum(1)

    return lpips
