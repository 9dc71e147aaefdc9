"""`decode_attention` in Triton: the keys that a row can see are split over programs, and combined in order.

    out_BLNE = decode_attention_triton(
        q_BLNE, q_prefix_BLNE, k_cache_BKCE, v_cache_BKCE, positions_B, prefix_lengths_B,
        prefix=32, frame_size=64, window=8,
    )

The L tokens times the query heads of a key/value head are the rows (M) of one program, so the cache is read once for
all of them. The keys of a clip are numbered in one sequence: its valid prefix slots, then the video positions from the
start of its window to its newest slot. This sequence is split into parts of a fixed size, so that a clip has the same
bits alone and in any batch. Each split writes its softmax (maximum, total, weighted values) in float32; a second kernel
combines them in order (Flash-Decoding, Dao et al. 2023). A sequence that fits into one split needs no second kernel.

The op is registered with torch as `reelm::decode_attention`, so that torch.compile does not trace into it.
"""

# ruff: noqa: ANN001, PLR0913 (the arguments of kernels, which Triton types at each launch, and of an op with options)

import math

import torch
import triton
import triton.language as tl

from .fusion import FUSED

LOG2_E = 1.4426950408889634
SMALLEST_SCALE = tl.constexpr(2.0**-100)


@triton.jit
def _place(positions_ptr, prefix_lengths_ptr, batch, prefix, frame_size, window):  # type: ignore[no-untyped-def]
    """Return a clip's number of valid prefix slots, its window's first latent frame, and its past video positions."""
    position = tl.load(positions_ptr + batch)
    # Positions need 64 bits but latent frames do not, and 64-bit divisions are slow.
    first_frame = tl.maximum((position // frame_size).to(tl.int32) + 1 - window, 0)
    length = tl.minimum(tl.load(prefix_lengths_ptr + batch), prefix)
    return length.to(tl.int32), first_frame, (position - first_frame.to(tl.int64) * frame_size).to(tl.int32)


@triton.jit
def _load_heads(pointers_SE, keep_S, E: tl.constexpr, BLOCK_E: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load rows of E values, with zeros beyond E and where `keep_S` is False; None keeps all rows."""
    if E < BLOCK_E:
        mask_SE = (tl.arange(0, BLOCK_E) < E)[None, :]
        if keep_S is not None:
            mask_SE = mask_SE & keep_S[:, None]
        return tl.load(pointers_SE, mask=mask_SE, other=0)
    elif keep_S is not None:
        return tl.load(pointers_SE, mask=keep_S[:, None], other=0)
    else:
        return tl.load(pointers_SE)


@triton.jit
def _load_scales(pointers_S, keep_S):  # type: ignore[no-untyped-def]
    if keep_S is None:
        return tl.load(pointers_S)
    else:
        return tl.load(pointers_S, mask=keep_S, other=1.0)


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    q_ME, k_base, v_base, k_scales_ptr, v_scales_ptr, k_stride_c, v_stride_c, first_scale,
    slot_S, keep_S, visible_MS, scale_log2, maximum_M, total_M, out_ME,
    E: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Continue the online softmax, in base 2, with one block of keys and values.

    Slots where `keep_S` is False are not read, and scores where `visible_MS` is False do not count; None means True
    everywhere.
    """
    slot_S = slot_S.to(tl.int64)
    dim_E = tl.arange(0, BLOCK_E)
    k_SE = _load_heads(k_base + slot_S[:, None] * k_stride_c + dim_E[None, :], keep_S, E, BLOCK_E)
    v_SE = _load_heads(v_base + slot_S[:, None] * v_stride_c + dim_E[None, :], keep_S, E, BLOCK_E)
    if k_scales_ptr is not None:
        # The conversion is exact: all dtypes of queries represent every int8.
        k_SE, v_SE = k_SE.to(tl.float32).to(q_ME.dtype), v_SE.to(tl.float32).to(q_ME.dtype)
    scores_MS = tl.dot(q_ME, tl.trans(k_SE), input_precision="ieee") * scale_log2
    if k_scales_ptr is not None:
        scores_MS *= _load_scales(k_scales_ptr + first_scale + slot_S, keep_S)[None, :]
        # The scale of a value is added to the exponent of its weight, so that weights are at most 1, which float16 can
        # represent for any scales; the total divides by it again. SMALLEST_SCALE replaces 0, which has no logarithm.
        v_scale_S = _load_scales(v_scales_ptr + first_scale + slot_S, keep_S)
        v_scale_S = tl.where(v_scale_S < SMALLEST_SCALE, SMALLEST_SCALE, v_scale_S)
        scores_MS += tl.log2(v_scale_S)[None, :]
    if visible_MS is not None:
        scores_MS = tl.where(visible_MS, scores_MS, float("-inf"))
    new_maximum_M = tl.maximum(maximum_M, tl.max(scores_MS, 1))
    # Subtract 0 in place of a maximum of -inf, since -inf - -inf is NaN.
    origin_M = tl.where(new_maximum_M == float("-inf"), 0.0, new_maximum_M)
    weights_MS = tl.exp2(scores_MS - origin_M[:, None])
    shrink_M = tl.exp2(maximum_M - origin_M)
    if k_scales_ptr is not None:
        total_M = total_M * shrink_M + tl.sum(weights_MS * (1.0 / v_scale_S)[None, :], 1)
    else:
        total_M = total_M * shrink_M + tl.sum(weights_MS, 1)
    out_ME = tl.dot(weights_MS.to(v_SE.dtype), v_SE, out_ME * shrink_M[:, None], input_precision="ieee")
    return new_maximum_M, total_M, out_ME


@triton.jit
def _attend_prefix(  # type: ignore[no-untyped-def]
    q_ME, k_base, v_base, k_scales_ptr, v_scales_ptr, k_stride_c, v_stride_c, first_scale,
    first, stop, sees_M, scale_log2, maximum_M, total_M, out_ME,
    E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Attend to prefix slots first .. stop, all of which every row sees that sees the prefix."""
    for start in range(first, stop, BLOCK_N):
        slot_S = start + tl.arange(0, BLOCK_N)
        keep_S = slot_S < stop
        maximum_M, total_M, out_ME = _attend(
            q_ME, k_base, v_base, k_scales_ptr, v_scales_ptr, k_stride_c, v_stride_c, first_scale,
            slot_S, keep_S, keep_S[None, :] & sees_M[:, None], scale_log2, maximum_M, total_M, out_ME, E, BLOCK_E,
        )  # fmt: skip
    return maximum_M, total_M, out_ME


@triton.jit
def _slots(slot_S, ring, prefix):  # type: ignore[no-untyped-def]
    """Return the slots in the cache of ring slots, which may continue past the end of the ring once."""
    return prefix + tl.where(slot_S >= ring, slot_S - ring, slot_S)


@triton.jit
def _attend_window(  # type: ignore[no-untyped-def]
    q_ME, k_base, v_base, k_scales_ptr, v_scales_ptr, k_stride_c, v_stride_c, first_scale,
    ancestors_ptr, window_M, token_M, valid_M, first_slot, ring, prefix,
    known, newer, low, left, full, high, scale_log2, maximum_M, total_M, out_ME,
    E: tl.constexpr, BLOCK_N: tl.constexpr, EDGE_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Attend to the keys with indices low .. high in the window.

    There are `left` blocks of which every row of the tile sees the keys from the start of its own window on, then
    `full` blocks that every row sees, then small blocks with the complete mask.
    """
    middle, right = low + left * BLOCK_N, low + (left + full) * BLOCK_N
    for start in range(low, middle, BLOCK_N):
        place_S = start + tl.arange(0, BLOCK_N)
        slot_S = _slots(first_slot + place_S, ring, prefix)
        maximum_M, total_M, out_ME = _attend(
            q_ME, k_base, v_base, k_scales_ptr, v_scales_ptr, k_stride_c, v_stride_c, first_scale,
            slot_S, None, place_S[None, :] >= window_M[:, None], scale_log2, maximum_M, total_M, out_ME, E, BLOCK_E,
        )  # fmt: skip
    for start in range(middle, right, BLOCK_N):
        slot_S = _slots(first_slot + start + tl.arange(0, BLOCK_N), ring, prefix)
        maximum_M, total_M, out_ME = _attend(
            q_ME, k_base, v_base, k_scales_ptr, v_scales_ptr, k_stride_c, v_stride_c, first_scale,
            slot_S, None, None, scale_log2, maximum_M, total_M, out_ME, E, BLOCK_E,
        )  # fmt: skip
    for start in tl.range(right, high, EDGE_N, num_stages=2):
        place_S = start + tl.arange(0, EDGE_N)
        newer_S = place_S - known
        visible_MS = place_S[None, :] >= window_M[:, None]
        if ancestors_ptr is None:
            visible_MS = visible_MS & (newer_S[None, :] <= token_M[:, None])
        else:
            is_newer_S = (newer_S >= 0) & (newer_S < newer)
            ancestors_MS = tl.load(
                ancestors_ptr + token_M[:, None] * newer + newer_S[None, :],
                mask=valid_M[:, None] & is_newer_S[None, :], other=0,
            )  # fmt: skip
            visible_MS = tl.where(is_newer_S[None, :], ancestors_MS != 0, visible_MS)
        visible_MS = visible_MS & (place_S < high)[None, :] & valid_M[:, None]
        # A slot that no row sees is not read, since it may contain NaN, and 0 * NaN is NaN.
        keep_S = tl.max(visible_MS.to(tl.int32), 0) > 0
        slot_S = _slots(first_slot + place_S, ring, prefix)
        maximum_M, total_M, out_ME = _attend(
            q_ME, k_base, v_base, k_scales_ptr, v_scales_ptr, k_stride_c, v_stride_c, first_scale,
            slot_S, keep_S, visible_MS, scale_log2, maximum_M, total_M, out_ME, E, BLOCK_E,
        )  # fmt: skip
    return maximum_M, total_M, out_ME


@triton.jit
def _split_kernel(  # type: ignore[no-untyped-def]
    q_ptr, q_prefix_ptr, k_ptr, v_ptr, positions_ptr, prefix_lengths_ptr,
    ancestors_ptr, query_positions_ptr, k_scales_ptr, v_scales_ptr,
    out_ptr, maximum_ptr, total_ptr,
    q_stride_b, q_stride_l, q_stride_h,
    q_prefix_stride_b, q_prefix_stride_l, q_prefix_stride_h,
    k_stride_b, k_stride_h, k_stride_c,
    v_stride_b, v_stride_h, v_stride_c, ancestors_stride_b,
    L, newer, ring, prefix, frame_size, window, prefix_from, splits, scale_log2,
    E: tl.constexpr, GROUP: tl.constexpr, SPLIT: tl.constexpr, ONE_SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EDGE_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    # Tiles of rows that read the same keys are started together, so that the chip's cache has the keys.
    tiles = tl.cdiv(GROUP * L, BLOCK_M)
    tile, split = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    kv_head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    length, first_frame, known = _place(positions_ptr, prefix_lengths_ptr, batch, prefix, frame_size, window)
    first = split * SPLIT
    if first >= length + known + newer:
        return

    row_M = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    token_M, head_M = row_M // GROUP, kv_head * GROUP + row_M % GROUP
    valid_M = row_M < GROUP * L
    dim_E = tl.arange(0, BLOCK_E)
    row_mask_ME = valid_M[:, None] & (dim_E < E)[None, :]

    # Indices in the window are video positions counted from its start: `known` past ones, and then the newer ones.
    first_slot = first_frame % (ring // frame_size) * frame_size
    place_M = known + token_M
    if query_positions_ptr is not None:
        query_M = tl.load(query_positions_ptr + batch * L + token_M, mask=valid_M, other=0)
        place_M = tl.maximum(query_M - first_frame.to(tl.int64) * frame_size, known)
        place_M = tl.minimum(place_M, 2**30).to(tl.int32)
    # Without a row that sees the prefix none of it is read, as a slot that no row sees may contain NaN.
    sees_M = valid_M & (tl.maximum(place_M, 0) >= (prefix_from - first_frame).to(tl.int64) * frame_size)
    prefix_stop = tl.where(tl.max(sees_M.to(tl.int32), 0) > 0, tl.minimum(first + SPLIT, length), first)
    # Windows start at the boundaries of latent frames.
    window_M = tl.minimum((place_M // frame_size + 1 - window) * frame_size, known + newer)
    lowest = tl.min(tl.where(valid_M, window_M, known + newer))
    highest = tl.max(tl.where(valid_M, window_M, 0))
    if ancestors_ptr is None:
        seen_by_all = known + tile * BLOCK_M // GROUP + 1
        seen_by_any = known + tl.minimum((tile * BLOCK_M + BLOCK_M - 1) // GROUP + 1, L)
    else:
        lowest = tl.minimum(lowest, known)
        seen_by_all, seen_by_any = known, known + newer
        ancestors_ptr += batch * ancestors_stride_b
    low = tl.maximum(tl.maximum(first - length, lowest), 0)
    high = tl.minimum(first + SPLIT - length, seen_by_any)
    inner = tl.maximum(tl.minimum(seen_by_all, high) - low, 0) // BLOCK_N
    left = tl.minimum(tl.cdiv(tl.maximum(highest - low, 0), BLOCK_N), inner)

    maximum_M = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total_M = tl.zeros([BLOCK_M], tl.float32)
    out_ME = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    q_M = batch * q_prefix_stride_b + token_M.to(tl.int64) * q_prefix_stride_l + head_M * q_prefix_stride_h
    # tl.where, since not every version of Triton's interpreter takes `&` of a block and a scalar.
    q_mask_ME = tl.where(first < prefix_stop, row_mask_ME, False)
    q_ME = tl.load(q_prefix_ptr + q_M[:, None] + dim_E[None, :], mask=q_mask_ME, other=0.0)
    maximum_M, total_M, out_ME = _attend_prefix(
        q_ME, k_ptr + batch * k_stride_b + kv_head * k_stride_h, v_ptr + batch * v_stride_b + kv_head * v_stride_h,
        k_scales_ptr, v_scales_ptr, k_stride_c, v_stride_c, (batch * tl.num_programs(1) + kv_head) * (prefix + ring),
        first, prefix_stop, sees_M, scale_log2, maximum_M, total_M, out_ME, E, BLOCK_N, BLOCK_E,
    )  # fmt: skip
    q_M = batch * q_stride_b + token_M.to(tl.int64) * q_stride_l + head_M * q_stride_h
    q_ME = tl.load(q_ptr + q_M[:, None] + dim_E[None, :], mask=tl.where(low < high, row_mask_ME, False), other=0.0)
    maximum_M, total_M, out_ME = _attend_window(
        q_ME, k_ptr + batch * k_stride_b + kv_head * k_stride_h, v_ptr + batch * v_stride_b + kv_head * v_stride_h,
        k_scales_ptr, v_scales_ptr, k_stride_c, v_stride_c, (batch * tl.num_programs(1) + kv_head) * (prefix + ring),
        ancestors_ptr, window_M, token_M, valid_M, first_slot, ring, prefix, known, newer,
        low, left, inner - left, high, scale_log2, maximum_M, total_M, out_ME, E, BLOCK_N, EDGE_N, BLOCK_E,
    )  # fmt: skip

    # The output is (B, L, N, E), and the parts are (B, L, N, splits) and (B, L, N, splits, E), all contiguous.
    out_M = (batch * L + token_M) * (tl.num_programs(1) * GROUP) + head_M
    if ONE_SPLIT:
        out_ME = out_ME / tl.where(total_M == 0.0, 1.0, total_M)[:, None]
    else:
        out_M = out_M * splits + split
        tl.store(maximum_ptr + out_M, maximum_M, mask=valid_M)
        tl.store(total_ptr + out_M, total_M, mask=valid_M)
    out_ME = out_ME.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + out_M[:, None] * E + dim_E[None, :], out_ME, mask=row_mask_ME)


@triton.jit
def _combine_kernel(  # type: ignore[no-untyped-def]
    part_ptr, maximum_ptr, total_ptr, positions_ptr, prefix_lengths_ptr, out_ptr,
    newer, prefix, frame_size, window, splits,
    E: tl.constexpr, SPLIT: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    row = batch * tl.num_programs(0) + tl.program_id(0)
    length, _, known = _place(positions_ptr, prefix_lengths_ptr, batch, prefix, frame_size, window)
    # Splits after the newest slot have written nothing.
    stop = tl.cdiv(length + known + newer, SPLIT)
    dim_E = tl.arange(0, BLOCK_E)
    maximum = tl.full([], float("-inf"), tl.float32)
    total = tl.zeros([], tl.float32)
    out_E = tl.zeros([BLOCK_E], tl.float32)
    for first in range(0, stop, BLOCK_X):
        split_X = first + tl.arange(0, BLOCK_X)
        part_X = row * splits + split_X
        maximum_X = tl.load(maximum_ptr + part_X, mask=split_X < stop, other=float("-inf"))
        total_X = tl.load(total_ptr + part_X, mask=split_X < stop, other=0.0)
        mask_XE = (split_X < stop)[:, None] & (dim_E < E)[None, :]
        part_XE = tl.load(part_ptr + part_X[:, None] * E + dim_E[None, :], mask=mask_XE, other=0.0)
        new_maximum = tl.maximum(maximum, tl.max(maximum_X, 0))
        origin = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        weights_X = tl.exp2(maximum_X - origin)
        shrink = tl.exp2(maximum - origin)
        total = total * shrink + tl.sum(weights_X * total_X, 0)
        out_E = out_E * shrink + tl.sum(weights_X[:, None] * part_XE, 0)
        maximum = new_maximum
    out_E = out_E / tl.where(total == 0.0, 1.0, total)
    tl.store(out_ptr + row * E + dim_E, out_E.to(out_ptr.dtype.element_ty), mask=dim_E < E)


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
    prefix_from: int = 0,
    ancestors_BLA: torch.Tensor | None = None,
    query_positions_BL: torch.Tensor | None = None,
    k_scales_BKC: torch.Tensor | None = None,
    v_scales_BKC: torch.Tensor | None = None,
    mask_BLC: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute `decode_attention`, with the same arguments and result; E is a multiple of 16 up to 128.

    `mask_BLC` is ignored, since the kernel computes the mask from the other arguments.
    """
    return _decode_attention(
        q_BLNE, q_prefix_BLNE, k_cache_BKCE, v_cache_BKCE, positions_B, prefix_lengths_B,
        ancestors_BLA, query_positions_BL, k_scales_BKC, v_scales_BKC, prefix, frame_size, window, prefix_from,
    )  # fmt: skip


# A registered op cannot have keyword-only tensors.
@torch.library.custom_op("reelm::decode_attention", mutates_args=())
def _decode_attention(
    q_BLNE: torch.Tensor,
    q_prefix_BLNE: torch.Tensor,
    k_cache_BKCE: torch.Tensor,
    v_cache_BKCE: torch.Tensor,
    positions_B: torch.Tensor,
    prefix_lengths_B: torch.Tensor,
    ancestors_BLA: torch.Tensor | None,
    query_positions_BL: torch.Tensor | None,
    k_scales_BKC: torch.Tensor | None,
    v_scales_BKC: torch.Tensor | None,
    prefix: int,
    frame_size: int,
    window: int,
    prefix_from: int,
) -> torch.Tensor:
    B, L, N, E = q_BLNE.shape
    K, C = k_cache_BKCE.shape[1:3]
    newer = L if ancestors_BLA is None else ancestors_BLA.shape[2]
    out_BLNE = torch.empty((B, L, N, E), dtype=q_BLNE.dtype, device=q_BLNE.device)
    if out_BLNE.numel() == 0:
        return out_BLNE
    # The kernel needs a stride of 1 within a head; all other strides are arguments.
    inputs = [x if x.stride(-1) == 1 else x.contiguous() for x in (q_BLNE, q_prefix_BLNE, k_cache_BKCE, v_cache_BKCE)]
    strides = [stride for x in inputs for stride in x.stride()[:3]]
    positions_B, prefix_lengths_B = positions_B.contiguous(), prefix_lengths_B.contiguous()
    ancestors = None if ancestors_BLA is None else ancestors_BLA.contiguous().view(torch.uint8)
    shared_ancestors = ancestors is None or ancestors.shape[0] == 1
    options = [None if x is None else x.contiguous() for x in (query_positions_BL, k_scales_BKC, v_scales_BKC)]

    most = prefix + window * frame_size - 1 + newer
    split = split_size(most)
    splits = triton.cdiv(most, split)
    parts = [out_BLNE, None, None]
    if splits > 1:
        shapes = (B, L, N, splits, E), (B, L, N, splits), (B, L, N, splits)
        parts = [torch.empty(shape, dtype=torch.float32, device=q_BLNE.device) for shape in shapes]
    rows = N // K * L
    blocks = block_sizes(rows, E, q_BLNE.element_size(), k_cache_BKCE.element_size())
    _split_kernel[(splits * triton.cdiv(rows, blocks["BLOCK_M"]), K, B)](
        *inputs, positions_B, prefix_lengths_B, ancestors, *options, *parts,
        *strides, 0 if shared_ancestors else L * newer,
        L, newer, C - prefix, prefix, frame_size, window, prefix_from, splits, E**-0.5 * LOG2_E,
        E=E, GROUP=N // K, SPLIT=split, ONE_SPLIT=splits == 1, **blocks, **FUSED,
    )  # fmt: skip
    if splits > 1:
        _combine_kernel[(L * N, B)](
            *parts, positions_B, prefix_lengths_B, out_BLNE, newer, prefix, frame_size, window, splits,
            E=E, SPLIT=split, BLOCK_X=min(32, triton.next_power_of_2(splits)), BLOCK_E=blocks["BLOCK_E"], num_warps=4,
            **FUSED,
        )  # fmt: skip
    return out_BLNE


@_decode_attention.register_fake
def _empty_output(q_BLNE: torch.Tensor, *rest: object) -> torch.Tensor:
    return q_BLNE.new_empty(q_BLNE.shape)


def split_size(slots: int) -> int:
    """Return the number of slots in a split if a row can see at most `slots`, independently of batch and positions.

    Up to 512 slots are one split, which saves a launch. More are divided into about 32 splits of at least 256 slots:
    enough programs for two rows of few heads, and parts that are small compared with the cache.
    """
    return 512 if slots <= 512 else max(256, 1 << round(math.log2(slots / 32)))


def block_sizes(rows: int, E: int, element_size: int, cache_element_size: int) -> dict[str, int]:
    """Return block sizes and launch options whose tiles fit the registers and shared memory of all supported chips.

    Products in float32 do not use tensor cores and take many registers for each number, and so does the conversion of
    keys and values from int8.
    """
    block_e, float32 = triton.next_power_of_2(E), element_size == 4
    block_m = 16 if float32 else min(64, max(16, triton.next_power_of_2(rows)))
    from_int8 = cache_element_size == 1 and block_m > 16 and block_e == 128
    block_n = (16 if block_e == 128 else 32) if float32 else 32 if from_int8 else 64
    ahead = 3 if block_n * block_e * cache_element_size <= 8192 else 2
    return {
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "EDGE_N": 16 if block_n < 64 or block_m > 16 else 32,
        "BLOCK_E": block_e,
        "num_warps": 8 if float32 or (cache_element_size == 1 and block_m < 64) else 4,
        # The stages are blocks that are loaded ahead: on NVIDIA in shared memory, on AMD (at most one) in registers.
        "num_stages": 2 if torch.version.hip else 1 + ahead,
    }
