"""`nearest_code` in plain torch: what the Triton kernel is tested against, and the way to encode on a CPU.

    ids_N = nearest_code_reference(x_ND, codebook_KD)

Blocks of vectors against blocks of codes, the best one so far of each vector kept.
"""

import torch

# The largest thing in memory is one block of scores, 4 MB in float32, whatever the sizes of N and K.
BLOCK_N, BLOCK_K = 1024, 1024


def nearest_code_reference(x_ND: torch.Tensor, codebook_KD: torch.Tensor) -> torch.Tensor:
    """Arguments and result as `nearest_code`."""
    dtype = torch.promote_types(x_ND.dtype, torch.float32)
    best_N = torch.full(x_ND.shape[:1], float("inf"), dtype=dtype, device=x_ND.device)
    ids_N = torch.zeros(x_ND.shape[:1], dtype=torch.int64, device=x_ND.device)
    for first in range(0, len(codebook_KD), BLOCK_K):
        codes_KD = codebook_KD[first : first + BLOCK_K].to(dtype)
        half_norms_K = codes_KD.square().sum(1) / 2
        for start in range(0, len(x_ND), BLOCK_N):
            rows = slice(start, start + BLOCK_N)
            scores_NK = torch.addmm(half_norms_K, x_ND[rows].to(dtype), codes_KD.T, alpha=-1)
            # `min` takes the first of equals, and only what is nearer takes an earlier block's place.
            nearest_N, place_N = scores_NK.min(1)
            ids_N[rows] = torch.where(nearest_N < best_N[rows], first + place_N, ids_N[rows])
            best_N[rows] = torch.minimum(best_N[rows], nearest_N)
    return ids_N
