"""`rope_norm_cache` in Triton: one program for each head of each token.

    q_BLNE, q_prefix_BLNE = rope_norm_cache_triton(
        qkv_BLJE, q_norm_E, k_norm_E, slots_BL, k_cache_BKCE, v_cache_BKCE,
        rotation=rotation, epsilon=1e-6, k_scales_BKC=None, v_scales_BKC=None,
    )

A head is loaded as two halves of F = E / 2 channels, so that the two channels of a rotated pair are in one thread.
"""

# ruff: noqa: ANN001, PLR0913 (the arguments of kernels, which Triton types at each launch)

import torch
import triton
import triton.language as tl

from .fusion import FUSED
from .rotary import Rotation


@triton.jit
def _normalised(first_F, second_F, norm_ptr, pair_F, epsilon, F: tl.constexpr):  # type: ignore[no-untyped-def]
    factor = tl.rsqrt((tl.sum(first_F * first_F, 0) + tl.sum(second_F * second_F, 0)) / (2 * F) + epsilon)
    first_weight_F = tl.load(norm_ptr + pair_F, mask=pair_F < F, other=0.0).to(tl.float32)
    second_weight_F = tl.load(norm_ptr + F + pair_F, mask=pair_F < F, other=0.0).to(tl.float32)
    return first_F * factor * first_weight_F, second_F * factor * second_weight_F


@triton.jit
def _rotated(first_F, second_F, cos_ptr, sin_ptr, token, pair_F, F: tl.constexpr):  # type: ignore[no-untyped-def]
    cos_F = tl.load(cos_ptr + token * F + pair_F, mask=pair_F < F, other=0.0).to(tl.float32)
    sin_F = tl.load(sin_ptr + token * F + pair_F, mask=pair_F < F, other=0.0).to(tl.float32)
    return first_F * cos_F - second_F * sin_F, second_F * cos_F + first_F * sin_F


@triton.jit
def _store(out_ptr, first_F, second_F, pair_F, F: tl.constexpr):  # type: ignore[no-untyped-def]
    tl.store(out_ptr + pair_F, first_F.to(out_ptr.dtype.element_ty), mask=pair_F < F)
    tl.store(out_ptr + F + pair_F, second_F.to(out_ptr.dtype.element_ty), mask=pair_F < F)


@triton.jit
def _rounded(x_F):  # type: ignore[no-untyped-def]
    """Round to the nearest integer, ties to even, for |x| up to 2 ** 22: near 1.5 * 2 ** 23 float32 holds integers."""
    x_F = (x_F + 12582912.0) - 12582912.0
    # The clamp is for subnormal scales, which have few bits.
    return tl.minimum(tl.maximum(x_F, -127.0), 127.0)


@triton.jit
def _write(  # type: ignore[no-untyped-def]
    cache_ptr, scale_ptr, first_F, second_F, pair_F,
    F: tl.constexpr, QUANTISE: tl.constexpr,
):  # fmt: skip
    if QUANTISE:
        largest = tl.maximum(tl.max(tl.abs(first_F), 0), tl.max(tl.abs(second_F), 0))
        # Divisions are rounded as in IEEE 754, so that scales have the same bits as those of the reference.
        scale = tl.div_rn(largest, 127.0)
        scale = tl.where(scale > 0.0, scale, 1.0)
        tl.store(scale_ptr, scale)
        first_F = _rounded(tl.div_rn(first_F, scale))
        second_F = _rounded(tl.div_rn(second_F, scale))
    _store(cache_ptr, first_F, second_F, pair_F, F)


@triton.jit
def _rope_norm_cache_kernel(  # type: ignore[no-untyped-def]
    qkv_ptr, q_norm_ptr, k_norm_ptr, slots_ptr, cos_ptr, sin_ptr,
    k_cache_ptr, v_cache_ptr, k_scales_ptr, v_scales_ptr, q_ptr, q_prefix_ptr,
    qkv_stride_b, qkv_stride_l, qkv_stride_h,
    k_stride_b, k_stride_h, k_stride_c,
    v_stride_b, v_stride_h, v_stride_c,
    k_scales_stride_b, k_scales_stride_h, k_scales_stride_c,
    v_scales_stride_b, v_scales_stride_h, v_scales_stride_c,
    L, N, K, epsilon,
    F: tl.constexpr, BLOCK_F: tl.constexpr, NORMALISE: tl.constexpr, QUANTISE: tl.constexpr,
):  # fmt: skip
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch = token // L
    pair_F = tl.arange(0, BLOCK_F)
    head_ptr = qkv_ptr + batch * qkv_stride_b + token % L * qkv_stride_l + head * qkv_stride_h
    first_F = tl.load(head_ptr + pair_F, mask=pair_F < F, other=0.0).to(tl.float32)
    second_F = tl.load(head_ptr + F + pair_F, mask=pair_F < F, other=0.0).to(tl.float32)
    slot = tl.load(slots_ptr + token)
    if head < N:
        if NORMALISE:
            first_F, second_F = _normalised(first_F, second_F, q_norm_ptr, pair_F, epsilon, F)
        out = (token * N + head) * 2 * F
        _store(q_prefix_ptr + out, first_F, second_F, pair_F, F)
        first_F, second_F = _rotated(first_F, second_F, cos_ptr, sin_ptr, token, pair_F, F)
        _store(q_ptr + out, first_F, second_F, pair_F, F)
    elif head < N + K:
        kv_head = head - N
        if NORMALISE:
            first_F, second_F = _normalised(first_F, second_F, k_norm_ptr, pair_F, epsilon, F)
        first_F, second_F = _rotated(first_F, second_F, cos_ptr, sin_ptr, token, pair_F, F)
        cache_ptr = k_cache_ptr + batch * k_stride_b + kv_head * k_stride_h + slot * k_stride_c
        scale_place = batch * k_scales_stride_b + kv_head * k_scales_stride_h + slot * k_scales_stride_c
        _write(cache_ptr, k_scales_ptr + scale_place, first_F, second_F, pair_F, F, QUANTISE)
    else:
        kv_head = head - N - K
        cache_ptr = v_cache_ptr + batch * v_stride_b + kv_head * v_stride_h + slot * v_stride_c
        scale_place = batch * v_scales_stride_b + kv_head * v_scales_stride_h + slot * v_scales_stride_c
        _write(cache_ptr, v_scales_ptr + scale_place, first_F, second_F, pair_F, F, QUANTISE)


def rope_norm_cache_triton(
    qkv_BLJE: torch.Tensor,
    q_norm_E: torch.Tensor | None,
    k_norm_E: torch.Tensor | None,
    slots_BL: torch.Tensor,
    k_cache_BKCE: torch.Tensor,
    v_cache_BKCE: torch.Tensor,
    *,
    rotation: Rotation,
    epsilon: float,
    k_scales_BKC: torch.Tensor | None,
    v_scales_BKC: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `rope_norm_cache`, with the same arguments and result, for float32, bfloat16 or float16."""
    B, L, H, E = qkv_BLJE.shape
    K = k_cache_BKCE.shape[1]
    N = H - 2 * K
    q_BLNE, q_prefix_BLNE = (torch.empty((B, L, N, E), dtype=qkv_BLJE.dtype, device=qkv_BLJE.device) for _ in range(2))
    if B * L == 0:
        return q_BLNE, q_prefix_BLNE
    qkv_BLJE = qkv_BLJE if qkv_BLJE.stride(3) == 1 else qkv_BLJE.contiguous()
    # Without norms or scales the caches are passed in place of them, and the kernel does not access them as such.
    norms = [k_cache_BKCE if norm is None else norm.contiguous() for norm in (q_norm_E, k_norm_E)]
    scales = (k_cache_BKCE if k_scales_BKC is None else k_scales_BKC,
              v_cache_BKCE if v_scales_BKC is None else v_scales_BKC)  # fmt: skip
    strides = [stride for x in (qkv_BLJE, k_cache_BKCE, v_cache_BKCE, *scales) for stride in x.stride()[:3]]
    _rope_norm_cache_kernel[(B * L, H)](
        qkv_BLJE, *norms, slots_BL.contiguous(),
        *(part.expand(B, L, 1, E // 2).contiguous() for part in rotation),
        k_cache_BKCE, v_cache_BKCE, *scales, q_BLNE, q_prefix_BLNE, *strides, L, N, K, epsilon,
        F=E // 2, BLOCK_F=triton.next_power_of_2(E // 2), NORMALISE=q_norm_E is not None,
        QUANTISE=k_scales_BKC is not None, num_warps=1, **FUSED,
    )  # fmt: skip
    return q_BLNE, q_prefix_BLNE
