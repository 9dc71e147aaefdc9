"""The nearest code of a codebook for each vector, without the matrix of all distances: the last step of encoding.

    ids_M = nearest_code(x_MD, codebook_ZD)

For 327,680 vectors and 65,536 codes that matrix would have 86 GB. Here one block of it at a time is computed, and only
the nearest code so far of each vector is kept: the idea of FlashAttention (arXiv 2205.14135) for an argmin instead of a
softmax.
"""

import torch

from ..core.errors import require
from .backend import FLOATS, pick_backend
from .nearest_code_reference import nearest_code_reference


@torch.no_grad()
def nearest_code(x_MD: torch.Tensor, codebook_ZD: torch.Tensor, *, backend: str | None = None) -> torch.Tensor:
    """Return the index of the code c with the least |x - c| ** 2, computed as the argmin of |c| ** 2 / 2 - x . c.

    Products and sums are in float32 (float64 for float64) for inputs of any dtype, so the result is that of exact
    arithmetic unless the distances of two codes differ by less than float32 rounding. Values must be finite.

    Args:
        x_MD: The vectors; M may be 0.
        codebook_ZD: The codes, at least one.
        backend: The implementation, "reference" or "triton"; by default the choice of `pick_backend`.

    Returns:
        ids_M, int64; of codes at the same distance the lowest id.

    Raises:
        ReelmError: The shapes, dtypes or devices do not match.
    """
    require(x_MD.ndim == 2 and x_MD.shape[1] >= 1, "x_MD", "must be vectors of at least 1 channel", tuple(x_MD.shape))
    require(x_MD.dtype.is_floating_point, "x_MD", "must be of a floating-point dtype", x_MD.dtype)
    fits = codebook_ZD.ndim == 2 and codebook_ZD.shape[1] == x_MD.shape[1]
    require(fits, "codebook_ZD", f"must be codes of {x_MD.shape[1]} channels (D)", tuple(codebook_ZD.shape))
    require(codebook_ZD.shape[0] >= 1, "codebook_ZD", "must have at least 1 code", codebook_ZD.shape[0])
    require(codebook_ZD.dtype == x_MD.dtype, "codebook_ZD", f"must be {x_MD.dtype} as x_MD is", codebook_ZD.dtype)
    same = codebook_ZD.device == x_MD.device
    require(same, "codebook_ZD", f"must be on {x_MD.device} as x_MD is", codebook_ZD.device)
    run = nearest_code_reference
    unserved = None if x_MD.dtype in FLOATS else f"dtype {x_MD.dtype}"
    if pick_backend("nearest_code", backend, x_MD, unserved) == "triton":
        # Importing reelm must not import triton.
        from .nearest_code_triton import nearest_code_triton as run
    return run(x_MD, codebook_ZD)
