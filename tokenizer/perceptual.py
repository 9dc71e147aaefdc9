"""How far pictures are apart to a network of the user's own: nothing is downloaded, and none is inside.

    distance = PerceptualDistance(Path("vgg16.pt"), height=64, width=64, device=torch.device("cpu"))
    distance(frames_BTHWC, reconstruction_BTHWC)              # clips in [0, 1]; a scalar

The file is TorchScript, called as `net(images, resize_images=False, return_lpips=True)` with float32 images
(N, 3, H, W) in [0, 255]; it returns features (N, D) whose squared Euclidean distance is the perceptual one. So is the
vgg16.pt called that comes with the metrics of StyleGAN2-ADA and StyleGAN3, whose distance is LPIPS (Zhang et al. 2018,
arXiv 1801.03924). TorchScript is a program: it is run.
"""

from pathlib import Path

import torch

from ..core.errors import ReelmError, require


class PerceptualDistance:
    """The mean over frames of the squared distance of their features. A file that cannot give it is refused at once."""

    def __init__(self, path: Path, *, height: int, width: int, device: torch.device) -> None:
        require(path.is_file(), "perceptual_weights", "must be a file that exists", str(path))
        try:
            self.net = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            raise ReelmError(f"perceptual_weights: must be a TorchScript file, got {str(path)!r}") from error
        for parameter in self.net.parameters():
            parameter.requires_grad_(False)
        try:
            shape = tuple(self._features(torch.zeros(1, 2, height, width, 3, device=device)).shape)
        except RuntimeError as error:
            rule = f"must take (images, resize_images=False, return_lpips=True) of {width}x{height}"
            raise ReelmError(f"perceptual_weights: {rule}, got {str(path)!r}: {error}") from error
        require(len(shape) == 2 and shape[0] == 2, "perceptual_weights", "must return features (images, D)", shape)

    def _features(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        """(B * T, D) of clips (B, T, H, W, 3) in [0, 1]."""
        images = frames_BTHWC.float().flatten(0, 1).movedim(-1, 1) * 255
        # As it is written: TorchScript's optimiser changes how it computes after some calls, so that a resumed run
        # would not have the bits of a whole one.
        with torch.autocast(images.device.type, enabled=False), torch.jit.optimized_execution(False):
            return self.net(images, resize_images=False, return_lpips=True)

    def __call__(self, frames_BTHWC: torch.Tensor, reconstruction_BTHWC: torch.Tensor) -> torch.Tensor:
        """A scalar; its gradient is that of the reconstruction alone."""
        with torch.no_grad():
            wanted = self._features(frames_BTHWC)
        return (wanted - self._features(reconstruction_BTHWC)).square().sum(1).mean()
