"""`nearest_code` in Triton: a program for each block of vectors loops over the codebook and keeps the nearest code.

    ids_M = nearest_code_triton(x_MD, codebook_ZD)

A first small kernel computes |c| ** 2 / 2 of every code in float32, the only temporary memory: 4 Z bytes. The second
one computes the products with one block of codes after the other, and reduces each block to a minimum and its index.
"""

# ruff: noqa: ANN001, PLR0913 (the arguments of kernels, which Triton types at each launch)

import torch
import triton
import triton.language as tl

from .fusion import FUSED


@triton.jit
def _half_norms_kernel(  # type: ignore[no-untyped-def]
    codebook_ptr, half_norms_ptr, code_stride_k, code_stride_d, K, D,
    BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    code_Z = tl.program_id(0).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    total_Z = tl.zeros([BLOCK_K], tl.float32)
    for start in range(0, D, BLOCK_D):
        dim_D = start + tl.arange(0, BLOCK_D)
        mask_ZD = (code_Z < K)[:, None] & (dim_D < D)[None, :]
        place_ZD = code_Z[:, None] * code_stride_k + dim_D[None, :] * code_stride_d
        codes_ZD = tl.load(codebook_ptr + place_ZD, mask=mask_ZD, other=0.0).to(tl.float32)
        total_Z += tl.sum(codes_ZD * codes_ZD, 1)
    tl.store(half_norms_ptr + code_Z, total_Z / 2, mask=code_Z < K)


@triton.jit
def _nearest_code_kernel(  # type: ignore[no-untyped-def]
    x_ptr, codebook_ptr, half_norms_ptr, ids_ptr,
    x_stride_n, x_stride_d, code_stride_k, code_stride_d, N, K, D,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row_M = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    best_M = tl.full([BLOCK_N], float("inf"), tl.float32)
    id_M = tl.zeros([BLOCK_N], tl.int32)
    for first in range(0, K, BLOCK_K):
        code_Z = first + tl.arange(0, BLOCK_K)
        place_Z = code_Z.to(tl.int64) * code_stride_k
        dots_MZ = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
        for start in range(0, D, BLOCK_D):
            dim_D = start + tl.arange(0, BLOCK_D)
            x_MD = tl.load(
                x_ptr + row_M[:, None] * x_stride_n + dim_D[None, :] * x_stride_d,
                mask=(row_M < N)[:, None] & (dim_D < D)[None, :],
                other=0.0,
            )
            codes_DZ = tl.load(
                codebook_ptr + place_Z[None, :] + dim_D[:, None] * code_stride_d,
                mask=(code_Z < K)[None, :] & (dim_D < D)[:, None],
                other=0.0,
            )
            dots_MZ = tl.dot(x_MD, codes_DZ, dots_MZ, input_precision="ieee")
        half_norm_Z = tl.load(half_norms_ptr + code_Z, mask=code_Z < K, other=float("inf"))
        # Of equal distances in a block the first code wins, and a later block only wins with a smaller distance.
        nearest_M, place_M = tl.min(half_norm_Z[None, :] - dots_MZ, 1, return_indices=True)
        id_M = tl.where(nearest_M < best_M, first + place_M, id_M)
        best_M = tl.minimum(best_M, nearest_M)
    tl.store(ids_ptr + row_M, id_M.to(tl.int64), mask=row_M < N)


def nearest_code_triton(x_MD: torch.Tensor, codebook_ZD: torch.Tensor) -> torch.Tensor:
    """Compute `nearest_code`, with the same arguments and result, for float32, bfloat16 or float16."""
    (N, D), K = x_MD.shape, len(codebook_ZD)
    ids_M = torch.empty(N, dtype=torch.int64, device=x_MD.device)
    if N == 0:
        return ids_M
    half_norms_Z = torch.empty(K, dtype=torch.float32, device=x_MD.device)
    blocks = block_sizes(D, x_MD.element_size())
    block_d = blocks["BLOCK_D"]
    _half_norms_kernel[(triton.cdiv(K, 32),)](
        codebook_ZD, half_norms_Z, *codebook_ZD.stride(), K, D, BLOCK_K=32, BLOCK_D=block_d, num_warps=4, **FUSED
    )
    _nearest_code_kernel[(triton.cdiv(N, blocks["BLOCK_N"]),)](
        x_MD, codebook_ZD, half_norms_Z, ids_M, *x_MD.stride(), *codebook_ZD.stride(), N, K, D, **blocks, **FUSED
    )
    return ids_M


def block_sizes(D: int, element_size: int) -> dict[str, int]:
    """Return block sizes and launch options that fit the registers of sm_90 and the shared memory of all chips."""
    widest = 32 if element_size == 4 else 64
    return {
        "BLOCK_N": 128,
        "BLOCK_K": 64,
        "BLOCK_D": min(widest, max(16, triton.next_power_of_2(D))),
        "num_warps": 8,
        "num_stages": 2,
    }
