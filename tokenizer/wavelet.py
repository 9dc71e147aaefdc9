"""The Haar wavelet transform of small blocks: averages apart from differences, in powers of two, lossless and linear.

    bands = haar(blocks, dims=(1, 3, 4))            # along time, rows and columns of a block
    blocks = inverse_haar(bands, dims=(1, 3, 4))

Along a dimension of 2^n entries, entry 0 becomes their average (times sqrt(2^n): the transform is orthonormal), the
others what is left at each scale, coarse before fine (Haar 1910; as the front end of a video tokenizer, it was shown by
Cosmos, NVIDIA 2025, arXiv 2501.03575). A still block has no temporal differences, and a flat one no spatial ones.
"""

from collections.abc import Sequence

import torch

HALF = 0.5**0.5


def haar(x: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    """The transform along each of `dims`, whose sizes are powers of two; the shape stays."""
    for dim in dims:
        bands, average = [], x
        while average.shape[dim] > 1:
            even, odd = average.unflatten(dim, (-1, 2)).unbind(dim + 1)
            bands.append((even - odd) * HALF)
            average = (even + odd) * HALF
        x = torch.cat([average, *reversed(bands)], dim)
    return x


def inverse_haar(bands: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    """What `haar` was given, up to rounding."""
    for dim in dims:
        size = bands.shape[dim]
        average, done = bands.narrow(dim, 0, 1), 1
        while done < size:
            difference = bands.narrow(dim, done, done)
            pairs = torch.stack([average + difference, average - difference], dim + 1) * HALF
            average, done = pairs.flatten(dim, dim + 1), 2 * done
        bands = average
    return bands
