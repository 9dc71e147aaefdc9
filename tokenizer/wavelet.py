"""The Haar wavelet transform of small blocks, which separates averages from differences; linear and lossless.

    bands = haar(blocks, dims=(1, 3, 4))            # along time, rows and columns of a block
    blocks = inverse_haar(bands, dims=(1, 3, 4))

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
