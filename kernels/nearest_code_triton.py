"""`nearest_code` in Triton: a program for a block of vectors walks the codebook and keeps the nearest code so far.

    ids_N = nearest_code_triton(x_ND, codebook_KD)

A first small kernel leaves |c| ** 2 / 2 of every code in float32, the only scratch there is: 4 K bytes. The second one
is a matrix product, block of codes by block of codes, each reduced to a minimum and its place as soon as it is made.
"""

# ruff: noqa: ANN001, PLR0913 (the arguments of kernels, which Triton types at each launch)

import torch
import triton
import triton.language as tl


@triton.jit
def _half_norms_kernel(  # type: ignore[no-untyped-def]
    codebook_ptr, half_norms_ptr, code_stride_k, code_stride_d, K, D,
    BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    code_K = tl.program_id(0).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    total_K = tl.zeros([BLOCK_K], tl.float32)
    for start in range(0, D, BLOCK_D):
        dim_D = start + tl.arange(0, BLOCK_D)
        mask_KD = (code_K < K)[:, None] & (dim_D < D)[None, :]
        place_KD = code_K[:, None] * code_stride_k + dim_D[None, :] * code_stride_d
        codes_KD = tl.load(codebook_ptr + place_KD, mask=mask_KD, other=0.0).to(tl.float32)
        total_K += tl.sum(codes_KD * codes_KD, 1)
    tl.store(half_norms_ptr + code_K, total_K / 2, mask=code_K < K)


@triton.jit
def _nearest_code_kernel(  # type: ignore[no-untyped-def]
    x_ptr, codebook_ptr, half_norms_ptr, ids_ptr,
    x_stride_n, x_stride_d, code_stride_k, code_stride_d, N, K, D,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row_N = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    best_N = tl.full([BLOCK_N], float("inf"), tl.float32)
    id_N = tl.zeros([BLOCK_N], tl.int32)
    for first in range(0, K, BLOCK_K):
        code_K = first + tl.arange(0, BLOCK_K)
        place_K = code_K.to(tl.int64) * code_stride_k
        dots_NK = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
        for start in range(0, D, BLOCK_D):
            dim_D = start + tl.arange(0, BLOCK_D)
            x_ND = tl.load(
                x_ptr + row_N[:, None] * x_stride_n + dim_D[None, :] * x_stride_d,
                mask=(row_N < N)[:, None] & (dim_D < D)[None, :],
                other=0.0,
            )
            codes_DK = tl.load(
                codebook_ptr + place_K[None, :] + dim_D[:, None] * code_stride_d,
                mask=(code_K < K)[None, :] & (dim_D < D)[:, None],
                other=0.0,
            )
            dots_NK = tl.dot(x_ND, codes_DK, dots_NK, input_precision="ieee")
        half_norm_K = tl.load(half_norms_ptr + code_K, mask=code_K < K, other=float("inf"))
        # The first of equals within a block, and only what is nearer takes an earlier block's place.
        nearest_N, place_N = tl.min(half_norm_K[None, :] - dots_NK, 1, return_indices=True)
        id_N = tl.where(nearest_N < best_N, first + place_N, id_N)
        best_N = tl.minimum(best_N, nearest_N)
    tl.store(ids_ptr + row_N, id_N.to(tl.int64), mask=row_N < N)


def nearest_code_triton(x_ND: torch.Tensor, codebook_KD: torch.Tensor) -> torch.Tensor:
    """Arguments and result as `nearest_code`; float32, bfloat16 or float16."""
    (N, D), K = x_ND.shape, len(codebook_KD)
    ids_N = torch.empty(N, dtype=torch.int64, device=x_ND.device)
    if N == 0:
        return ids_N
    half_norms_K = torch.empty(K, dtype=torch.float32, device=x_ND.device)
    blocks = block_sizes(D, x_ND.element_size())
    _half_norms_kernel[(triton.cdiv(K, 32),)](
        codebook_KD, half_norms_K, *codebook_KD.stride(), K, D, BLOCK_K=32, BLOCK_D=blocks["BLOCK_D"], num_warps=4
    )
    _nearest_code_kernel[(triton.cdiv(N, blocks["BLOCK_N"]),)](
        x_ND, codebook_KD, half_norms_K, ids_N, *x_ND.stride(), *codebook_KD.stride(), N, K, D, **blocks
    )
    return ids_N


def block_sizes(D: int, element_size: int) -> dict[str, int]:
    """Block sizes and launch options whose tiles fit the registers of sm_90 and the shared memory of all chips."""
    widest = 32 if element_size == 4 else 64
    return {
        "BLOCK_N": 128,
        "BLOCK_K": 64,
        "BLOCK_D": min(widest, max(16, triton.next_power_of_2(D))),
        "num_warps": 8,
        "num_stages": 2,
    }
