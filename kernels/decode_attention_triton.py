"""`decode_attention` in Triton: split over the cache, combined in order.

    out_BLNE = decode_attention_triton(
        q_BLNE, q_prefix_BLNE, k_cache_BKCE, v_cache_BKCE, positions_B, prefix_lengths_B,
        prefix=32, frame_size=64, window=8,
    )

The query heads of a key/value head times the L tokens are the rows (M) of one program, so the cache is read once for
all of them. Splits have a fixed size, so that a row has the same bits alone and in any batch. Each split leaves its
softmax (maximum, total, weighted values) in float32; a second kernel combines them in order (Flash-Decoding).
"""

# ruff: noqa: ANN001, PLR0913 (the arguments of kernels, which Triton types at each launch)

import torch
import triton
import triton.language as tl

LOG2_E = 1.4426950408889634
SPLIT = 256  # slots; never a function of batch or position


@triton.jit
def _split_kernel(  # type: ignore[no-untyped-def]
    q_ptr, q_prefix_ptr, k_ptr, v_ptr, positions_ptr, prefix_lengths_ptr, out_ptr, maximum_ptr, total_ptr,
    q_stride_b, q_stride_l, q_stride_h,
    q_prefix_stride_b, q_prefix_stride_l, q_prefix_stride_h,
    k_stride_b, k_stride_h, k_stride_c,
    v_stride_b, v_stride_h, v_stride_c,
    L, ring, prefix, frame_size, reach_of_frames, scale_log2, prefix_splits,
    E: tl.constexpr, GROUP: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(0)
    batch = tl.program_id(2).to(tl.int64)
    M = GROUP * L
    tiles = tl.cdiv(M, BLOCK_M)
    kv_head = tl.program_id(1) // tiles
    row_M = tl.program_id(1) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    head_M = kv_head * GROUP + row_M // L
    token_M = row_M % L
    dim_E = tl.arange(0, BLOCK_E)
    in_head_E = dim_E < E
    row_mask_ME = (row_M < M)[:, None] & in_head_E[None, :]

    position = tl.load(positions_ptr + batch)
    query_M = position + token_M
    reach_M = tl.minimum(query_M, query_M % frame_size + reach_of_frames).to(tl.int32)
    query_slot_M = (query_M % ring).to(tl.int32)
    # A split lies in the prefix or in the ring. It starts at slot `first` of that segment, which starts at `segment`.
    in_prefix = split < prefix_splits
    if in_prefix:
        first = split * SPLIT
        segment = 0
        stop = tl.minimum(first + SPLIT, tl.minimum(tl.load(prefix_lengths_ptr + batch), prefix)).to(tl.int32)
        q_base = q_prefix_ptr + batch * q_prefix_stride_b
        q_offset_M = head_M * q_prefix_stride_h + token_M * q_prefix_stride_l
    else:
        first = (split - prefix_splits) * SPLIT
        segment = prefix
        # Until the ring has been filled once, nothing lies after the newest token.
        stop = tl.minimum(first + SPLIT, tl.minimum(position + L, ring)).to(tl.int32)
        q_base = q_ptr + batch * q_stride_b
        q_offset_M = head_M * q_stride_h + token_M * q_stride_l
    q_ME = tl.load(q_base + q_offset_M[:, None] + dim_E[None, :], mask=row_mask_ME, other=0.0)

    maximum_M = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total_M = tl.zeros([BLOCK_M], tl.float32)
    out_ME = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    k_base = k_ptr + batch * k_stride_b + kv_head * k_stride_h
    v_base = v_ptr + batch * v_stride_b + kv_head * v_stride_h
    for start in range(first, stop, BLOCK_N):
        slot_N = start + tl.arange(0, BLOCK_N)
        # Slots of tokens after the query are ring - 1, ring - 2, ... behind it: out of its reach in a long enough ring.
        behind_MN = query_slot_M[:, None] - slot_N[None, :]
        behind_MN = tl.where(behind_MN < 0, behind_MN + ring, behind_MN)
        visible_MN = (in_prefix | (behind_MN <= reach_M[:, None])) & (slot_N < stop)[None, :]
        # A slot that no row sees is not read: it may hold NaN, and 0 * NaN is NaN.
        seen_N = tl.max((visible_MN & (row_M < M)[:, None]).to(tl.int32), 0) > 0
        kv_mask_NE = seen_N[:, None] & in_head_E[None, :]
        slot_N += segment
        k_NE = tl.load(k_base + slot_N[:, None] * k_stride_c + dim_E[None, :], mask=kv_mask_NE, other=0.0)
        v_NE = tl.load(v_base + slot_N[:, None] * v_stride_c + dim_E[None, :], mask=kv_mask_NE, other=0.0)
        scores_MN = tl.dot(q_ME, tl.trans(k_NE), input_precision="ieee") * scale_log2
        scores_MN = tl.where(visible_MN, scores_MN, float("-inf"))
        new_maximum_M = tl.maximum(maximum_M, tl.max(scores_MN, 1))
        # -inf - -inf is NaN: measure from 0 while a row has seen nothing.
        origin_M = tl.where(new_maximum_M == float("-inf"), 0.0, new_maximum_M)
        weights_MN = tl.exp2(scores_MN - origin_M[:, None])
        shrink_M = tl.exp2(maximum_M - origin_M)
        total_M = total_M * shrink_M + tl.sum(weights_MN, 1)
        out_ME = tl.dot(weights_MN.to(v_NE.dtype), v_NE, out_ME * shrink_M[:, None], input_precision="ieee")
        maximum_M = new_maximum_M

    # Partial results are (B, N, L, splits) and (B, N, L, splits, E), contiguous.
    rows = tl.num_programs(1) // tiles * M
    part_M = (batch * rows + head_M * L + token_M) * tl.num_programs(0) + split
    tl.store(maximum_ptr + part_M, maximum_M, mask=row_M < M)
    tl.store(total_ptr + part_M, total_M, mask=row_M < M)
    tl.store(out_ptr + part_M[:, None] * E + dim_E[None, :], out_ME, mask=row_mask_ME)


@triton.jit
def _combine_kernel(  # type: ignore[no-untyped-def]
    part_ptr, maximum_ptr, total_ptr, out_ptr, L, splits,
    E: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    token, head, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    heads = tl.num_programs(1)
    dim_E = tl.arange(0, BLOCK_E)
    first = ((batch * heads + head) * L + token) * splits
    maximum = float("-inf")
    for split in range(splits):
        maximum = tl.maximum(maximum, tl.load(maximum_ptr + first + split))
    total = 0.0
    out_E = tl.zeros([BLOCK_E], tl.float32)
    for split in range(splits):
        weight = tl.exp2(tl.load(maximum_ptr + first + split) - maximum)
        total += weight * tl.load(total_ptr + first + split)
        out_E += weight * tl.load(part_ptr + (first + split) * E + dim_E, mask=dim_E < E, other=0.0)
    out_base = out_ptr + ((batch * L + token) * heads + head) * E
    tl.store(out_base + dim_E, (out_E / total).to(out_ptr.dtype.element_ty), mask=dim_E < E)


def decode_attention_triton(
    q_BLNE: torch.Tensor,
    q_prefix_BLNE: torch.Tensor,
    k_cache_BKCE: torch.Tensor,
    v_cache_BKCE: torch.Tensor,
    positions_B: torch.Tensor,
    prefix_lengths_B: torch.Tensor,
    *,
    prefix: int,
    frame_size: int,
    window: int,
) -> torch.Tensor:
    """Arguments and result as `decode_attention`; E a multiple of 16 up to 128."""
    B, L, N, E = q_BLNE.shape
    K, C = k_cache_BKCE.shape[1:3]
    ring = C - prefix
    out_BLNE = torch.empty((B, L, N, E), dtype=q_BLNE.dtype, device=q_BLNE.device)
    if out_BLNE.numel() == 0:
        return out_BLNE
    prefix_splits = triton.cdiv(prefix, SPLIT)
    splits = prefix_splits + triton.cdiv(ring, SPLIT)
    part_BNLXE = torch.empty((B, N, L, splits, E), dtype=torch.float32, device=q_BLNE.device)
    maximum_BNLX, total_BNLX = torch.empty((2, B, N, L, splits), dtype=torch.float32, device=q_BLNE.device)
    # The kernel walks heads with a step of 1 inside a head; every other stride is free.
    inputs = [x if x.stride(-1) == 1 else x.contiguous() for x in (q_BLNE, q_prefix_BLNE, k_cache_BKCE, v_cache_BKCE)]
    strides = [stride for x in inputs for stride in x.stride()[:3]]
    blocks = block_sizes(N // K * L, E, q_BLNE.element_size())
    _split_kernel[(splits, K * triton.cdiv(N // K * L, blocks["BLOCK_M"]), B)](
        *inputs, positions_B, prefix_lengths_B, part_BNLXE, maximum_BNLX, total_BNLX, *strides,
        L, ring, prefix, frame_size, (window - 1) * frame_size, E**-0.5 * LOG2_E, prefix_splits,
        E=E, GROUP=N // K, SPLIT=SPLIT, **blocks,
    )  # fmt: skip
    _combine_kernel[(L, N, B)](
        part_BNLXE, maximum_BNLX, total_BNLX, out_BLNE, L, splits, E=E, BLOCK_E=blocks["BLOCK_E"], num_warps=1
    )
    return out_BLNE


def block_sizes(rows: int, E: int, element_size: int) -> dict[str, int]:
    """Block sizes and launch options whose tiles fit the shared memory of sm_80, sm_90 and gfx942."""
    block_e = triton.next_power_of_2(E)
    return {
        "BLOCK_M": min(64, max(16, triton.next_power_of_2(rows))),
        "BLOCK_N": 32 if element_size == 4 and block_e == 128 else 64,
        "BLOCK_E": block_e,
        "num_warps": 8 if element_size == 4 and block_e == 128 else 4,
        "num_stages": 2,
    }
