"""`nearest_code` in plain torch: what the Triton kernel is tested against, and the way to encode on a CPU.

    ids_M = nearest_code_reference(x_MD, codebook_ZD)

Blocks of vectors against blocks of codes, the best one so far of each vector kept.
"""

import torch

# The largest thing in memory is one block of scores, 4 MB in float32, whatever the sizes of N and K.
BLOCK_N, BLOCK_K = 1024, 1024


def nearest_code_reference(x_MD: torch.Tensor, codebook_ZD: torch.Tensor) -> torch.Tensor:
    """Arguments and result as `nearest_code`."""
    dtype = torch.promote_types(x_MD.dtype, torch.float32)
    best_M = torch.full(x_MD.shape[:1], float("inf"), dtype=dtype, device=x_MD.device)
    ids_M = torch.zeros(x_MD.shape[:1], dtype=torch.int64, device=x_MD.device)
    for first in range(0, len(codebook_ZD), BLOCK_K):
        codes_ZD = codebook_ZD[first : first + BLOCK_K].to(dtype)
        half_norms_Z = codes_ZD.square().sum(1) / 2
        for start in range(0, len(x_MD), BLOCK_N):
            rows = slice(start, start + BLOCK_N)
            scores_MZ = torch.addmm(half_norms_Z, x_MD[rows].to(dtype), codes_ZD.T, alpha=-1)
            # `min` takes the first of equals, and only what is nearer takes an earlier block's place.
            nearest_M, place_M = scores_MZ.min(1)
            ids_M[rows] = torch.where(nearest_M < best_M[rows], first + place_M, ids_M[rows])
            best_M[rows] = torch.minimum(best_M[rows], nearest_M)
    return ids_M
