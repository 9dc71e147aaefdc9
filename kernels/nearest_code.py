"""The nearest code of a codebook for each vector, without the matrix of all distances: how a clip becomes token ids.

    ids_N = nearest_code(x_ND, codebook_KD)

For 327,680 vectors and 65,536 codes that matrix would be 86 GB. Here a block of it at a time is made and dropped, and
the best code so far is kept: what FlashAttention (arXiv 2205.14135) does for a softmax, for an argmin.
"""

import torch

from ..core.errors import require
from .backend import FLOATS, pick_backend
from .nearest_code_reference import nearest_code_reference


@torch.no_grad()
def nearest_code(x_ND: torch.Tensor, codebook_KD: torch.Tensor, *, backend: str | None = None) -> torch.Tensor:
    """Argmin over the codes c of the squared distance |x - c| ** 2, found as that of |c| ** 2 / 2 - x . c.

    Products and sums are made in float32 (float64 for float64), whatever the inputs are: the id is that of exact
    arithmetic unless two codes are equally near but for float32 rounding. Values must be finite.

    Args:
        x_ND: vectors, any number of them.
        codebook_KD: codes, at least one.
        backend: "reference" or "triton"; by default as `pick_backend` says.

    Returns:
        ids_N, int64; of codes at the same distance the lowest id.

    Raises:
        ReelmError: the shapes, dtypes or devices do not fit together.
    """
    require(x_ND.ndim == 2 and x_ND.shape[1] >= 1, "x_ND", "must be vectors of at least 1 channel", tuple(x_ND.shape))
    require(x_ND.dtype.is_floating_point, "x_ND", "must be of a floating-point dtype", x_ND.dtype)
    fits = codebook_KD.ndim == 2 and codebook_KD.shape[1] == x_ND.shape[1]
    require(fits, "codebook_KD", f"must be codes of {x_ND.shape[1]} channels (D)", tuple(codebook_KD.shape))
    require(codebook_KD.shape[0] >= 1, "codebook_KD", "must have at least 1 code", codebook_KD.shape[0])
    require(codebook_KD.dtype == x_ND.dtype, "codebook_KD", f"must be {x_ND.dtype} as x_ND is", codebook_KD.dtype)
    same = codebook_KD.device == x_ND.device
    require(same, "codebook_KD", f"must be on {x_ND.device} as x_ND is", codebook_KD.device)
    run = nearest_code_reference
    unserved = None if x_ND.dtype in FLOATS else f"dtype {x_ND.dtype}"
    if pick_backend("nearest_code", backend, x_ND, unserved) == "triton":
        # Importing reelm must not import triton.
        from .nearest_code_triton import nearest_code_triton as run
    return run(x_ND, codebook_KD)
