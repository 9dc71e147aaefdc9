"""`nearest_code` in plain torch: the reference for tests of the Triton kernel, and the implementation for CPUs.

    ids_M = nearest_code_reference(x_MD, codebook_ZD)

It compares blocks of vectors with blocks of codes, and keeps the nearest code so far of each vector.
"""

import torch

# The largest temporary tensor is one block of scores, 4 MB in float32 for any M and Z.
BLOCK_M, BLOCK_Z = 1024, 1024


def nearest_code_reference(x_MD: torch.Tensor, codebook_ZD: torch.Tensor) -> torch.Tensor:
    """Compute `nearest_code`, with the same arguments and result."""
    dtype = torch.promote_types(x_MD.dtype, torch.float32)
    best_M = torch.full(x_MD.shape[:1], float("inf"), dtype=dtype, device=x_MD.device)
    ids_M = torch.zeros(x_MD.shape[:1], dtype=torch.int64, device=x_MD.device)
    for first in range(0, len(codebook_ZD), BLOCK_Z):
        codes_ZD = codebook_ZD[first : first + BLOCK_Z].to(dtype)
        half_norms_Z = codes_ZD.square().sum(1) / 2
        for start in range(0, len(x_MD), BLOCK_M):
            rows = slice(start, start + BLOCK_M)
            scores_MZ = torch.addmm(half_norms_Z, x_MD[rows].to(dtype), codes_ZD.T, alpha=-1)
            # Of equal scores `min` returns the first index, and a later block only wins with a lower score.
            nearest_M, index_M = scores_MZ.min(1)
            ids_M[rows] = torch.where(nearest_M < best_M[rows], first + index_M, ids_M[rows])
            best_M[rows] = torch.minimum(best_M[rows], nearest_M)
    return ids_M
