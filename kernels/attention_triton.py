"""`attention` in Triton, forward only: blocks of keys that no query of a block sees are skipped, not masked.

    out_BSNE = attention_triton(
        q_BSNE, q_prefix_BSNE, k_BSKE, v_BSKE, prefix_lengths_B, prefix=32, frame_size=64, window=8
    )

One program a block of query rows and head. It walks the prefix keys with the prefix queries, then the video keys from
the first one that its first row sees to its last row, with an online softmax (FlashAttention-2, arXiv:2307.08691).
"""

# ruff: noqa: ANN001, PLR0913 (the arguments of kernels, which Triton types at each launch)

import torch
import triton
import triton.language as tl

LOG2_E = 1.4426950408889634


@triton.jit
def _accumulate(scores_MN, visible_MN, v_NE, maximum_M, total_M, out_ME):  # type: ignore[no-untyped-def]
    """One step of the online softmax, in base 2; rows that have seen nothing yet keep a maximum of -inf."""
    scores_MN = tl.where(visible_MN, scores_MN, float("-inf"))
    new_maximum_M = tl.maximum(maximum_M, tl.max(scores_MN, 1))
    # -inf - -inf is NaN: measure from 0 while a row has seen nothing.
    origin_M = tl.where(new_maximum_M == float("-inf"), 0.0, new_maximum_M)
    weights_MN = tl.exp2(scores_MN - origin_M[:, None])
    shrink_M = tl.exp2(maximum_M - origin_M)
    total_M = total_M * shrink_M + tl.sum(weights_MN, 1)
    out_ME = out_ME * shrink_M[:, None]
    out_ME = tl.dot(weights_MN.to(v_NE.dtype), v_NE, out_ME, input_precision="ieee")
    return new_maximum_M, total_M, out_ME


@triton.jit
def _attention_kernel(  # type: ignore[no-untyped-def]
    q_ptr, q_prefix_ptr, k_ptr, v_ptr, prefix_lengths_ptr, out_ptr,
    q_stride_b, q_stride_s, q_stride_h,
    q_prefix_stride_b, q_prefix_stride_s, q_prefix_stride_h,
    k_stride_b, k_stride_s, k_stride_h,
    v_stride_b, v_stride_s, v_stride_h,
    out_stride_b, out_stride_s, out_stride_h,
    S, prefix, frame_size, reach_of_frames, scale_log2,
    E: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(2).to(tl.int64)
    head = tl.program_id(1)
    # The last rows see the most keys: start them first.
    first_row = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_M
    row_M = first_row + tl.arange(0, BLOCK_M)
    dim_E = tl.arange(0, BLOCK_E)
    in_head_E = dim_E < E
    row_mask_ME = (row_M < S)[:, None] & in_head_E[None, :]

    maximum_M = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total_M = tl.zeros([BLOCK_M], tl.float32)
    out_ME = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    k_base = k_ptr + batch * k_stride_b + (head // GROUP) * k_stride_h
    v_base = v_ptr + batch * v_stride_b + (head // GROUP) * v_stride_h

    # The prefix: causal among its own rows; every video row comes after all of it.
    q_base = q_prefix_ptr + batch * q_prefix_stride_b + head * q_prefix_stride_h
    q_ME = tl.load(q_base + row_M[:, None] * q_prefix_stride_s + dim_E[None, :], mask=row_mask_ME, other=0.0)
    length = tl.minimum(tl.load(prefix_lengths_ptr + batch).to(tl.int32), prefix)
    for start in range(0, tl.minimum(length, first_row + BLOCK_M), BLOCK_N):
        key_N = start + tl.arange(0, BLOCK_N)
        key_mask_NE = (key_N < length)[:, None] & in_head_E[None, :]
        k_NE = tl.load(k_base + key_N[:, None] * k_stride_s + dim_E[None, :], mask=key_mask_NE, other=0.0)
        v_NE = tl.load(v_base + key_N[:, None] * v_stride_s + dim_E[None, :], mask=key_mask_NE, other=0.0)
        scores_MN = tl.dot(q_ME, tl.trans(k_NE), input_precision="ieee") * scale_log2
        visible_MN = (key_N < length)[None, :] & (key_N[None, :] <= row_M[:, None])
        maximum_M, total_M, out_ME = _accumulate(scores_MN, visible_MN, v_NE, maximum_M, total_M, out_ME)

    # The video, from the first key of the first row's window. Positions of prefix rows are negative and see no key.
    q_base = q_ptr + batch * q_stride_b + head * q_stride_h
    q_ME = tl.load(q_base + row_M[:, None] * q_stride_s + dim_E[None, :], mask=row_mask_ME, other=0.0)
    position_M = row_M - prefix
    reach_M = position_M % frame_size + reach_of_frames
    first_position = tl.maximum(first_row - prefix, 0)
    first_key = tl.maximum(first_position - first_position % frame_size - reach_of_frames, 0)
    stop = tl.minimum(first_row + BLOCK_M, S) - prefix
    for start in range(first_key // BLOCK_N * BLOCK_N, stop, BLOCK_N):
        key_N = start + tl.arange(0, BLOCK_N)
        key_mask_NE = (key_N < stop)[:, None] & in_head_E[None, :]
        k_NE = tl.load(k_base + (prefix + key_N)[:, None] * k_stride_s + dim_E[None, :], mask=key_mask_NE, other=0.0)
        v_NE = tl.load(v_base + (prefix + key_N)[:, None] * v_stride_s + dim_E[None, :], mask=key_mask_NE, other=0.0)
        scores_MN = tl.dot(q_ME, tl.trans(k_NE), input_precision="ieee") * scale_log2
        behind_MN = position_M[:, None] - key_N[None, :]
        visible_MN = (behind_MN >= 0) & (behind_MN <= reach_M[:, None])
        maximum_M, total_M, out_ME = _accumulate(scores_MN, visible_MN, v_NE, maximum_M, total_M, out_ME)

    out_ME = out_ME / tl.where(total_M == 0.0, 1.0, total_M)[:, None]
    out_base = out_ptr + batch * out_stride_b + head * out_stride_h
    tl.store(
        out_base + row_M[:, None] * out_stride_s + dim_E[None, :], out_ME.to(out_ptr.dtype.element_ty), mask=row_mask_ME
    )


def attention_triton(
    q_BSNE: torch.Tensor,
    q_prefix_BSNE: torch.Tensor,
    k_BSKE: torch.Tensor,
    v_BSKE: torch.Tensor,
    prefix_lengths_B: torch.Tensor,
    *,
    prefix: int,
    frame_size: int,
    window: int,
) -> torch.Tensor:
    """Arguments and result as `attention`; E a multiple of 16 up to 128, no gradients."""
    B, S, N, E = q_BSNE.shape
    out_BSNE = torch.empty((B, S, N, E), dtype=q_BSNE.dtype, device=q_BSNE.device)
    if out_BSNE.numel() == 0:
        return out_BSNE
    # The kernel walks heads with a step of 1 inside a head; every other stride is free.
    inputs = [x if x.stride(-1) == 1 else x.contiguous() for x in (q_BSNE, q_prefix_BSNE, k_BSKE, v_BSKE)]
    strides = [stride for x in (*inputs, out_BSNE) for stride in x.stride()[:3]]
    blocks = block_sizes(S, E, q_BSNE.element_size())
    _attention_kernel[(triton.cdiv(S, blocks["BLOCK_M"]), N, B)](
        *inputs, prefix_lengths_B, out_BSNE, *strides,
        S, prefix, frame_size, (window - 1) * frame_size, E**-0.5 * LOG2_E,
        E=E, GROUP=N // k_BSKE.shape[2], **blocks,
    )  # fmt: skip
    return out_BSNE


def block_sizes(S: int, E: int, element_size: int) -> dict[str, int]:
    """Block sizes and launch options whose tiles fit the shared memory of sm_80, sm_90 and gfx942."""
    block_e = triton.next_power_of_2(E)
    small = element_size == 4 or S <= 64
    return {
        "BLOCK_M": 64 if small else 128,
        "BLOCK_N": 32 if element_size == 4 and block_e == 128 else 64,
        "BLOCK_E": block_e,
        "num_warps": 4 if small else 8,
        "num_stages": 2,
    }
