"""FVD, the Fréchet video distance (Unterthiner et al. 2018, arXiv 1812.01717), with a network that the user provides.

    fvd = Fvd("i3d_torchscript.pt", frames=16)
    for truth_THW3, shown_THW3 in clips: fvd.add(truth_THW3, shown_THW3)
    fvd.figures()["fvd"]

The file (saved_networks.py) has the signature of the i3d_torchscript.pt of StyleGAN-V's metrics: `net(videos,
rescale=True, resize=True, return_features=True)` takes floats (B, 3, T, H, W) from 0 to 255, resizes them to 224x224
itself, and returns features (B, D). Nothing is downloaded.

FVD falls as the number of clips grows: only compare figures with the same number of clips, length and network. Tables
in papers use thousands of clips, mostly of 16 frames.
"""

from pathlib import Path

import torch

from ..core.errors import require
from ..core.progress import note
from .saved_networks import call_network, load_network

LEAST_FRAMES = 10  # I3D pools over 8 frames, twice, which needs 9; published figures use 10 or more
USUAL_FRAMES = 16
LEAST_CLIPS = 2  # one clip has no covariance


class Fvd:
    """The features of clips and of their counterparts, added pair by pair, and the distance of the two sets."""

    def __init__(self, path: str | Path, *, frames: int = USUAL_FRAMES, device: str | torch.device = "cpu") -> None:
        """Load the network.

        Args:
            path: The file of the network.
            frames: The number of first frames of each clip that are used; shorter clips are left out.
            device: The device of the network.

        Raises:
            ReelmError: There are too few frames; the file is missing or is not a network; or its network does not
                give finite features of a clip of noise.
        """
        require(frames >= LEAST_FRAMES, "max_frames", f"must be at least {LEAST_FRAMES} for FVD", frames)
        self.frames, self.left_out, self.not_finite = frames, 0, 0
        self._device = device
        self._net = load_network(path, "fvd_weights", device=device)
        self._features: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        noise_THW3 = torch.randint(256, (frames, 64, 64, 3), generator=torch.Generator().manual_seed(0))
        features_1D = self._features_of(noise_THW3)
        finite = bool(features_1D.isfinite().all())
        require(finite, "fvd_weights", "must be a network with finite features", "NaN or infinity for a clip of noise")
        self._columns = features_1D.shape[1]

    def _features_of(self, clip_THW3: torch.Tensor) -> torch.Tensor:
        """Return the features (1, D) of the first frames of a clip."""
        clip_13THW = clip_THW3[: self.frames].to(self._device).float().permute(3, 0, 1, 2)[None]
        with torch.no_grad():
            features_1D = call_network(
                self._net, "fvd_weights", clip_13THW, rescale=True, resize=True, return_features=True
            )
        return features_1D.double().cpu()

    def add(self, truth_THW3: torch.Tensor, shown_THW3: torch.Tensor) -> None:
        """Add a clip and its counterpart, both uint8."""
        if len(truth_THW3) < self.frames:
            self.left_out += 1
            return
        pair = [self._features_of(clip_THW3) for clip_THW3 in (truth_THW3, shown_THW3)]
        for features_1D in pair:
            count = features_1D.shape[1]
            require(count == self._columns, "fvd_weights", f"must give {self._columns} features for each clip", count)
        if not all(bool(features_1D.isfinite().all()) for features_1D in pair):
            self.not_finite += 1
            return
        for features_1D, features in zip(pair, self._features, strict=True):
            features.append(features_1D)

    def figures(self) -> dict[str, float | None]:
        """Return fvd, and the numbers of clips that it is of (fvd_n), of their frames (fvd_frames), of the clips that
        were too short (fvd_left_out), and of those with features that are not finite (fvd_not_finite).

        With fewer than two clips, and with any that has no finite features, fvd is None and a warning says why. It is
        no error: the caller finds out at the end, after all other figures are measured, and must not lose those.
        """
        count = len(self._features[0])
        distance = None
        if self.not_finite:
            note(f"warning: fvd: the network gave features that are not finite for {self.not_finite} clips: no FVD")
        elif count < LEAST_CLIPS:
            note(f"warning: fvd: needs {LEAST_CLIPS} clips of {self.frames} frames or more, got {count}: no FVD")
        else:
            distance = frechet_distance(*(torch.cat(features) for features in self._features))
        return {"fvd": distance, "fvd_n": count, "fvd_frames": self.frames, "fvd_left_out": self.left_out,
                "fvd_not_finite": self.not_finite}  # fmt: skip


def frechet_distance(features_BD: torch.Tensor, others_MD: torch.Tensor) -> float:
    """Return the Fréchet distance of the Gaussians with the means and (unbiased) covariances of two sets of features.

    The distance is |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)). The last trace is computed without the square root of a
    matrix, which is ill-conditioned with fewer clips than features: with S1 = A^T A and S2 = B^T B it is the sum of the
    singular values of A B^T.

    Raises:
        ReelmError: A set has fewer than two rows, the sets have different numbers of columns, or a value is not finite.
    """
    sets = (features_BD.double(), others_MD.double())
    rule = f"must be (N, D) of at least {LEAST_CLIPS} rows, and of the same D"
    fits = all(part.ndim == 2 and len(part) >= LEAST_CLIPS for part in sets) and sets[0].shape[1] == sets[1].shape[1]
    require(fits, "features", rule, [tuple(part.shape) for part in sets])
    finite = all(bool(part.isfinite().all()) for part in sets)
    require(finite, "features", "must be finite", "NaN or infinity")
    means = [part.mean(0) for part in sets]
    roots = [(part - mean) / (len(part) - 1) ** 0.5 for part, mean in zip(sets, means, strict=True)]
    variance = sum(float(root.square().sum()) for root in roots)
    shared = float(torch.linalg.svdvals(roots[0] @ roots[1].T).sum())
    return max(0.0, float((means[0] - means[1]).square().sum()) + variance - 2 * shared)
