"""The Haar wavelet transform of small blocks, which separates averages from differences; linear and lossless.

    bands = haar(blocks, dims=(1, 3, 4))            # along time, rows and columns of a block
    blocks = inverse_haar(bands, dims=(1, 3, 4))
    bands = haar_bands(frames_BCTHW, patch=4)       # of all bands again at the next scale, as channels

Along a dimension of 2^n entries, entry 0 of the result is their average (times sqrt(2^n), as the transform is
orthonormal); the other entries are the differences at each scale, coarse before fine (Haar 1910; Cosmos, NVIDIA 2025,
arXiv 2501.03575, uses it as the front end of a video tokenizer). The temporal differences of a still block are zero,
and so are the spatial differences of a flat block.
"""

from collections.abc import Sequence

import torch

HALF = 0.5**0.5


def haar(x: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    """Return the transform of `x` along each of `dims`, whose sizes are powers of two, in the shape of `x`."""
    for dim in dims:
        bands, average = [], x
        while average.shape[dim] > 1:
            even, odd = average.unflatten(dim, (-1, 2)).unbind(dim + 1)
            bands.append((even - odd) * HALF)
            average = (even + odd) * HALF
        x = torch.cat([average, *reversed(bands)], dim)
    return x


def inverse_haar(bands: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    """Return the tensor whose transform along `dims` is `bands`, up to rounding."""
    for dim in dims:
        size = bands.shape[dim]
        average, done = bands.narrow(dim, 0, 1), 1
        while done < size:
            difference = bands.narrow(dim, done, done)
            pairs = torch.stack([average + difference, average - difference], dim + 1) * HALF
            average, done = pairs.flatten(dim, dim + 1), 2 * done
        bands = average
    return bands


def haar_bands(frames_BCTHW: torch.Tensor, patch: int) -> torch.Tensor:
    """Return the Haar bands of patches: (B, C * patch^3, T / patch, H / patch, W / patch).

    Each scale halves all three sizes and has eight bands: the average of 2x2x2 values, then the seven differences, each
    with all channels of the scale before.
    """
    x = frames_BCTHW
    while patch > 1:
        parts = [x]
        for dim in (2, 3, 4):
            parts = [band for part in parts for band in _halve(part, dim)]
        x, patch = torch.cat(parts, 1), patch // 2
    return x


def inverse_haar_bands(bands: torch.Tensor, patch: int) -> torch.Tensor:
    """Return the frames (B, C, T, H, W) of Haar bands: the inverse of `haar_bands`."""
    x = bands
    while patch > 1:
        parts = list(x.chunk(8, 1))
        for dim in (4, 3, 2):
            parts = [_join(parts[index], parts[index + 1], dim) for index in range(0, len(parts), 2)]
        x, patch = parts[0], patch // 2
    return x


def _halve(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    even, odd = x.unflatten(dim, (-1, 2)).unbind(dim + 1)
    return (even + odd) / 2, (even - odd) / 2


def _join(average: torch.Tensor, difference: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.stack([average + difference, average - difference], dim + 1).flatten(dim, dim + 1)
