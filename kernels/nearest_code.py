"""The nearest code of a codebook for each vector, without the matrix of all distances: how a clip becomes token ids.

    ids_M = nearest_code(x_MD, codebook_ZD)

For 327,680 vectors and 65,536 codes that matrix would be 86 GB. Here a block of it at a time is made and dropped, and
the best code so far is kept: what FlashAttention (arXiv 2205.14135) does for a softmax, for an argmin.
"""

import torch

from ..core.errors import require
from .backend import FLOATS, pick_backend
from .nearest_code_reference import nearest_code_reference


@torch.no_grad()
def nearest_code(x_MD: torch.Tensor, codebook_ZD: torch.Tensor, *, backend: str | None = None) -> torch.Tensor:
    """Argmin over the codes c of the squared distance |x - c| ** 2, found as that of |c| ** 2 / 2 - x . c.

    Products and sums are made in float32 (float64 for float64), whatever the inputs are: the id is that of exact
    arithmetic unless two codes are equally near but for float32 rounding. Values must be finite.

    Args:
        x_MD: vectors, any number of them.
        codebook_ZD: codes, at least one.
        backend: "reference" or "triton"; by default as `pick_backend` says.

    Returns:
        ids_M, int64; of codes at the same distance the lowest id.

    Raises:
        ReelmError: the shapes, dtypes or devices do not fit together.
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
