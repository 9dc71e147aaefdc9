"""`attention` in Triton, forward and backward, which skips keys that no query of a block sees instead of masking them.

    out_BSNE, lse_BNS = attention_triton(q_BSNE, k_BSKE, v_BSKE, frame_size=64, window=8, …)

Forward: one program for each head and block of query rows loops over the prefix keys with the prefix queries, and then
over the video keys that its rows see, with an online softmax (FlashAttention-2, Dao 2023, arXiv 2307.08691). The video
keys that a row sees are an interval [low, high) whose ends do not decrease from row to row. The keys of a block of rows
are therefore a left edge, an interior that every row sees, and a right edge, and only the edges need a mask. Backward:
scores are computed again from the log-sum-exp; one kernel loops over the keys of each block of rows (dq), and another
over the rows of each block of keys and all query heads of its group (dk, dv). There are no atomic additions, so results
have the same bits in every run.
"""

# ruff: noqa: ANN001, PLR0913 (the arguments of kernels, which Triton types at each launch)

from typing import Any

import torch
import triton
import triton.language as tl

from .fusion import FUSED

LOG2_E = 1.4426950408889634
LN_2 = tl.constexpr(0.6931471805599453)
MASKS = {"token": 0, "frame": 1, "full": 2}
TOKEN, FRAME, FULL = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _seen(position, V, frame_size, reach, MASK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the interval [low, high) of video keys that a row sees, by its video position (negative in the prefix)."""
    if MASK == FULL:
        return position * 0, position * 0 + V
    at = tl.maximum(position, 0)
    frame_start = at - at % frame_size
    high = position + 1
    if MASK == FRAME:
        high = frame_start + frame_size
    high = tl.where(position < 0, 0, tl.minimum(high, V))
    return tl.maximum(frame_start - reach, 0), high


@triton.jit
def _seen_prefix(row, length, MASK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the end of the prefix keys that a row sees: causal for prefix rows, all valid ones for video rows."""
    if MASK == FULL:
        return row * 0 + length
    return tl.minimum(row + 1, length)


@triton.jit
def _tile(  # type: ignore[no-untyped-def]
    base, stride, offset, limit, E: tl.constexpr, BLOCK: tl.constexpr, BLOCK_E: tl.constexpr, MASKED: tl.constexpr
):
    """Load rows offset .. offset + BLOCK of a (rows, E) matrix as (BLOCK, BLOCK_E), with zeros from `limit` on."""
    row = tl.arange(0, BLOCK)
    dim = tl.arange(0, BLOCK_E)
    pointers = base + tl.cast(offset, tl.int64) * stride + row[:, None] * stride + dim[None, :]
    if MASKED:
        return tl.load(pointers, mask=(offset + row < limit)[:, None] & (dim < E)[None, :], other=0.0)
    if BLOCK_E > E:
        return tl.load(pointers, mask=(dim < E)[None, :], other=0.0)
    return tl.load(pointers)


@triton.jit
def _walk_keys(  # type: ignore[no-untyped-def]
    q_ME, k_base, v_base, k_stride, v_stride, start, stop, limit, low_M, high_M, scale_log2,
    maximum_M, total_M, out_ME,
    E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Continue the online softmax, in base 2, over keys start .. stop; a row without keys so far has maximum -inf."""
    for first in range(start, stop, BLOCK_N):
        k_SE = _tile(k_base, k_stride, first, limit, E, BLOCK_N, BLOCK_E, MASKED)
        scores_MS = tl.dot(q_ME, tl.trans(k_SE), input_precision="ieee") * scale_log2
        if MASKED:
            key_S = first + tl.arange(0, BLOCK_N)
            visible_MS = (key_S[None, :] >= low_M[:, None]) & (key_S[None, :] < high_M[:, None])
            scores_MS = tl.where(visible_MS, scores_MS, float("-inf"))
        new_maximum_M = tl.maximum(maximum_M, tl.max(scores_MS, 1))
        origin_M = new_maximum_M
        if MASKED:  # subtract 0 in place of a maximum of -inf, since -inf - -inf is NaN
            origin_M = tl.where(new_maximum_M == float("-inf"), 0.0, new_maximum_M)
        weights_MS = tl.exp2(scores_MS - origin_M[:, None])
        shrink_M = tl.exp2(maximum_M - origin_M)
        total_M = total_M * shrink_M + tl.sum(weights_MS, 1)
        v_SE = _tile(v_base, v_stride, first, limit, E, BLOCK_N, BLOCK_E, MASKED)
        out_ME = tl.dot(weights_MS.to(v_SE.dtype), v_SE, out_ME * shrink_M[:, None], input_precision="ieee")
        maximum_M = new_maximum_M
    return maximum_M, total_M, out_ME


@triton.jit
def _inside(  # type: ignore[no-untyped-def]
    first_row, last_row, S, prefix, frame_size, reach, MASK: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Return the video keys that rows first .. last see: some row those in [start, stop), every row the inner ones."""
    V = S - prefix
    last_row = tl.minimum(last_row, S - 1)
    start, _ = _seen(tl.maximum(first_row - prefix, 0), V, frame_size, reach, MASK)
    low_of_last, stop = _seen(last_row - prefix, V, frame_size, reach, MASK)
    _, high_of_first = _seen(first_row - prefix, V, frame_size, reach, MASK)
    stop = tl.maximum(stop, start)
    inner_start = tl.minimum(start + tl.cdiv(low_of_last - start, BLOCK_N) * BLOCK_N, stop)
    inner_stop = inner_start + tl.maximum(high_of_first - inner_start, 0) // BLOCK_N * BLOCK_N
    return start, inner_start, inner_stop, stop


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    q_ptr, q_prefix_ptr, k_ptr, v_ptr, lengths_ptr, out_ptr, lse_ptr,
    q_stride_b, q_stride_s, q_stride_h,
    q_prefix_stride_b, q_prefix_stride_s, q_prefix_stride_h,
    k_stride_b, k_stride_s, k_stride_h,
    v_stride_b, v_stride_s, v_stride_h,
    out_stride_b, out_stride_s, out_stride_h,
    S, prefix, frame_size, reach, scale_log2,
    E: tl.constexpr, GROUP: tl.constexpr, MASK: tl.constexpr, HAS_PREFIX: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    batch, head = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64)
    # The last rows see the most keys, so they are started first.
    first_row = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_M
    row_M = first_row + tl.arange(0, BLOCK_M)
    k_base = k_ptr + batch * k_stride_b + (head // GROUP) * k_stride_h
    v_base = v_ptr + batch * v_stride_b + (head // GROUP) * v_stride_h
    maximum_M = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total_M = tl.zeros([BLOCK_M], tl.float32)
    out_ME = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)

    if HAS_PREFIX:
        length = tl.minimum(tl.load(lengths_ptr + batch).to(tl.int32), prefix)
        high_M = _seen_prefix(row_M, length, MASK)
        stop = length
        if MASK != FULL:
            stop = tl.minimum(length, first_row + BLOCK_M)
        q_base = q_prefix_ptr + batch * q_prefix_stride_b + head * q_prefix_stride_h
        q_ME = _tile(q_base, q_prefix_stride_s, first_row, S, E, BLOCK_M, BLOCK_E, True)
        maximum_M, total_M, out_ME = _walk_keys(
            q_ME, k_base, v_base, k_stride_s, v_stride_s, 0, stop, stop, row_M * 0, high_M, scale_log2,
            maximum_M, total_M, out_ME, E, BLOCK_N, BLOCK_E, True,
        )  # fmt: skip
        k_base += tl.cast(prefix, tl.int64) * k_stride_s
        v_base += tl.cast(prefix, tl.int64) * v_stride_s

    q_ME = _tile(q_ptr + batch * q_stride_b + head * q_stride_h, q_stride_s, first_row, S, E, BLOCK_M, BLOCK_E, True)
    low_M, high_M = _seen(row_M - prefix, S - prefix, frame_size, reach, MASK)
    start, inner_start, inner_stop, stop = _inside(
        first_row, first_row + BLOCK_M - 1, S, prefix, frame_size, reach, MASK, BLOCK_N
    )
    maximum_M, total_M, out_ME = _walk_keys(
        q_ME, k_base, v_base, k_stride_s, v_stride_s, start, inner_start, stop, low_M, high_M, scale_log2,
        maximum_M, total_M, out_ME, E, BLOCK_N, BLOCK_E, True,
    )  # fmt: skip
    maximum_M, total_M, out_ME = _walk_keys(
        q_ME, k_base, v_base, k_stride_s, v_stride_s, inner_start, inner_stop, stop, low_M, high_M, scale_log2,
        maximum_M, total_M, out_ME, E, BLOCK_N, BLOCK_E, False,
    )  # fmt: skip
    maximum_M, total_M, out_ME = _walk_keys(
        q_ME, k_base, v_base, k_stride_s, v_stride_s, inner_stop, stop, stop, low_M, high_M, scale_log2,
        maximum_M, total_M, out_ME, E, BLOCK_N, BLOCK_E, True,
    )  # fmt: skip

    out_ME = out_ME / tl.where(total_M == 0.0, 1.0, total_M)[:, None]
    dim_E = tl.arange(0, BLOCK_E)
    out_base = out_ptr + batch * out_stride_b + head * out_stride_h + first_row.to(tl.int64) * out_stride_s
    tl.store(
        out_base + tl.arange(0, BLOCK_M)[:, None] * out_stride_s + dim_E[None, :],
        out_ME.to(out_ptr.dtype.element_ty), mask=(row_M < S)[:, None] & (dim_E < E)[None, :],
    )  # fmt: skip
    # The log-sum-exp is (B, N, S), contiguous.
    some_M = total_M > 0.0
    lse_M = tl.where(some_M, (maximum_M + tl.log2(tl.where(some_M, total_M, 1.0))) * LN_2, float("-inf"))
    tl.store(lse_ptr + (batch * tl.num_programs(1) + head) * S + row_M, lse_M, mask=row_M < S)


@triton.jit
def _delta_kernel(  # type: ignore[no-untyped-def]
    out_ptr, d_out_ptr, d_lse_ptr, delta_ptr, S, N,
    E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Compute delta = sum(out * d_out) - d_lse, (B, N, S), the term in the gradient of every score (D in the paper)."""
    batch, head = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64)
    first_row = tl.program_id(0) * BLOCK_M
    base = (batch * S * N + head) * E
    out_ME = _tile(out_ptr + base, N * E, first_row, S, E, BLOCK_M, BLOCK_E, True).to(tl.float32)
    d_out_ME = _tile(d_out_ptr + base, N * E, first_row, S, E, BLOCK_M, BLOCK_E, True).to(tl.float32)
    row_M = first_row + tl.arange(0, BLOCK_M)
    at_M = (batch * N + head) * S + row_M
    d_lse_M = tl.load(d_lse_ptr + at_M, mask=row_M < S, other=0.0)
    tl.store(delta_ptr + at_M, tl.sum(out_ME * d_out_ME, 1) - d_lse_M, mask=row_M < S)


@triton.jit
def _walk_keys_back(  # type: ignore[no-untyped-def]
    q_ME, d_out_ME, lse_M, delta_M, k_base, v_base, k_stride, v_stride, start, stop, limit, low_M, high_M, scale_log2,
    dq_ME, E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Add the part of dq of keys start .. stop, without the scale."""
    for first in range(start, stop, BLOCK_N):
        k_SE = _tile(k_base, k_stride, first, limit, E, BLOCK_N, BLOCK_E, MASKED)
        v_SE = _tile(v_base, v_stride, first, limit, E, BLOCK_N, BLOCK_E, MASKED)
        scores_MS = tl.dot(q_ME, tl.trans(k_SE), input_precision="ieee") * scale_log2
        weights_MS = tl.exp2(scores_MS - lse_M[:, None])
        if MASKED:
            key_S = first + tl.arange(0, BLOCK_N)
            visible_MS = (key_S[None, :] >= low_M[:, None]) & (key_S[None, :] < high_M[:, None])
            weights_MS = tl.where(visible_MS, weights_MS, 0.0)
        d_weights_MS = tl.dot(d_out_ME, tl.trans(v_SE), input_precision="ieee")
        d_scores_MS = weights_MS * (d_weights_MS - delta_M[:, None])
        dq_ME = tl.dot(d_scores_MS.to(k_SE.dtype), k_SE, dq_ME, input_precision="ieee")
    return dq_ME


@triton.jit
def _dq_kernel(  # type: ignore[no-untyped-def]
    q_ptr, q_prefix_ptr, k_ptr, v_ptr, lengths_ptr, d_out_ptr, lse_ptr, delta_ptr, dq_ptr, dq_prefix_ptr,
    q_stride_b, q_stride_s, q_stride_h,
    q_prefix_stride_b, q_prefix_stride_s, q_prefix_stride_h,
    k_stride_b, k_stride_s, k_stride_h,
    v_stride_b, v_stride_s, v_stride_h,
    S, prefix, frame_size, reach, scale, scale_log2, log2_e,
    E: tl.constexpr, GROUP: tl.constexpr, MASK: tl.constexpr, HAS_PREFIX: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    batch, head, N = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    first_row = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_M
    row_M = first_row + tl.arange(0, BLOCK_M)
    in_out_ME = (row_M < S)[:, None] & (tl.arange(0, BLOCK_E) < E)[None, :]
    base = (batch * S * N + head) * E  # the offset in d_out, dq and dq_prefix, which are contiguous
    at_ME = base + row_M[:, None].to(tl.int64) * (N * E) + tl.arange(0, BLOCK_E)[None, :]
    d_out_ME = _tile(d_out_ptr + base, N * E, first_row, S, E, BLOCK_M, BLOCK_E, True)
    lse_M = tl.load(lse_ptr + (batch * N + head) * S + row_M, mask=row_M < S, other=float("inf")) * log2_e
    delta_M = tl.load(delta_ptr + (batch * N + head) * S + row_M, mask=row_M < S, other=0.0)
    k_base = k_ptr + batch * k_stride_b + (head // GROUP) * k_stride_h
    v_base = v_ptr + batch * v_stride_b + (head // GROUP) * v_stride_h

    if HAS_PREFIX:
        length = tl.minimum(tl.load(lengths_ptr + batch).to(tl.int32), prefix)
        stop = length
        if MASK != FULL:
            stop = tl.minimum(length, first_row + BLOCK_M)
        q_base = q_prefix_ptr + batch * q_prefix_stride_b + head * q_prefix_stride_h
        q_ME = _tile(q_base, q_prefix_stride_s, first_row, S, E, BLOCK_M, BLOCK_E, True)
        dq_ME = _walk_keys_back(
            q_ME, d_out_ME, lse_M, delta_M, k_base, v_base, k_stride_s, v_stride_s, 0, stop, stop,
            row_M * 0, _seen_prefix(row_M, length, MASK), scale_log2, tl.zeros([BLOCK_M, BLOCK_E], tl.float32),
            E, BLOCK_N, BLOCK_E, True,
        )  # fmt: skip
        tl.store(dq_prefix_ptr + at_ME, (dq_ME * scale).to(dq_prefix_ptr.dtype.element_ty), mask=in_out_ME)
        k_base += tl.cast(prefix, tl.int64) * k_stride_s
        v_base += tl.cast(prefix, tl.int64) * v_stride_s

    q_ME = _tile(q_ptr + batch * q_stride_b + head * q_stride_h, q_stride_s, first_row, S, E, BLOCK_M, BLOCK_E, True)
    low_M, high_M = _seen(row_M - prefix, S - prefix, frame_size, reach, MASK)
    start, inner_start, inner_stop, stop = _inside(
        first_row, first_row + BLOCK_M - 1, S, prefix, frame_size, reach, MASK, BLOCK_N
    )
    dq_ME = _walk_keys_back(
        q_ME, d_out_ME, lse_M, delta_M, k_base, v_base, k_stride_s, v_stride_s, start, inner_start, stop,
        low_M, high_M, scale_log2, tl.zeros([BLOCK_M, BLOCK_E], tl.float32), E, BLOCK_N, BLOCK_E, True,
    )  # fmt: skip
    dq_ME = _walk_keys_back(
        q_ME, d_out_ME, lse_M, delta_M, k_base, v_base, k_stride_s, v_stride_s, inner_start, inner_stop, stop,
        low_M, high_M, scale_log2, dq_ME, E, BLOCK_N, BLOCK_E, False,
    )  # fmt: skip
    dq_ME = _walk_keys_back(
        q_ME, d_out_ME, lse_M, delta_M, k_base, v_base, k_stride_s, v_stride_s, inner_stop, stop, stop,
        low_M, high_M, scale_log2, dq_ME, E, BLOCK_N, BLOCK_E, True,
    )  # fmt: skip
    tl.store(dq_ptr + at_ME, (dq_ME * scale).to(dq_ptr.dtype.element_ty), mask=in_out_ME)


@triton.jit
def _seen_by(key, S, prefix, frame_size, reach, in_prefix, MASK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the rows [first, last) that see a key, whose index counts from the start of the prefix or of the video."""
    if MASK == FULL:
        return key * 0, key * 0 + S
    frame_start = prefix + key - key % frame_size
    first = prefix + key
    if MASK == FRAME:
        first = frame_start
    last = tl.minimum(frame_start + frame_size + reach, S)
    return tl.where(in_prefix, key, first), tl.where(in_prefix, S, last)


@triton.jit
def _walk_rows(  # type: ignore[no-untyped-def]
    k_SE, v_SE, first_S, last_S, q_base, d_out_base, lse_base, delta_base, q_stride, d_out_stride, start, stop, limit,
    scale_log2, log2_e, dk_SE, dv_SE,
    E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Add the parts of dk (without the scale) and dv of rows start .. stop of one query head."""
    for first in range(start, stop, BLOCK_M):
        row_M = first + tl.arange(0, BLOCK_M)
        q_ME = _tile(q_base, q_stride, first, limit, E, BLOCK_M, BLOCK_E, MASKED)
        d_out_ME = _tile(d_out_base, d_out_stride, first, limit, E, BLOCK_M, BLOCK_E, MASKED)
        if MASKED:
            lse_M = tl.load(lse_base + row_M, mask=row_M < limit, other=float("inf")) * log2_e
            delta_M = tl.load(delta_base + row_M, mask=row_M < limit, other=0.0)
        else:
            lse_M = tl.load(lse_base + row_M) * log2_e
            delta_M = tl.load(delta_base + row_M)
        scores_SM = tl.dot(k_SE, tl.trans(q_ME), input_precision="ieee") * scale_log2
        weights_SM = tl.exp2(scores_SM - lse_M[None, :])
        if MASKED:
            visible_SM = (row_M[None, :] >= first_S[:, None]) & (row_M[None, :] < last_S[:, None])
            weights_SM = tl.where(visible_SM, weights_SM, 0.0)
        dv_SE = tl.dot(weights_SM.to(d_out_ME.dtype), d_out_ME, dv_SE, input_precision="ieee")
        d_weights_SM = tl.dot(v_SE, tl.trans(d_out_ME), input_precision="ieee")
        d_scores_SM = weights_SM * (d_weights_SM - delta_M[None, :])
        dk_SE = tl.dot(d_scores_SM.to(q_ME.dtype), q_ME, dk_SE, input_precision="ieee")
    return dk_SE, dv_SE


@triton.jit
def _dkdv_kernel(  # type: ignore[no-untyped-def]
    q_ptr, q_prefix_ptr, k_ptr, v_ptr, lengths_ptr, d_out_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
    q_stride_b, q_stride_s, q_stride_h,
    q_prefix_stride_b, q_prefix_stride_s, q_prefix_stride_h,
    k_stride_b, k_stride_s, k_stride_h,
    v_stride_b, v_stride_s, v_stride_h,
    S, prefix, frame_size, reach, scale, scale_log2, log2_e, prefix_blocks,
    E: tl.constexpr, GROUP: tl.constexpr, MASK: tl.constexpr, HAS_PREFIX: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    batch, kv_head, K = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    block = tl.program_id(0)
    # A block of keys is in the prefix or in the video; `key_S` counts from the start of that part.
    in_prefix = block < prefix_blocks
    if in_prefix:
        first_key, segment, count = block * BLOCK_N, 0, prefix
        length = tl.minimum(tl.load(lengths_ptr + batch).to(tl.int32), prefix)
    else:
        first_key, segment, count = (block - prefix_blocks) * BLOCK_N, prefix, S - prefix
        length = S - prefix
    key_S = first_key + tl.arange(0, BLOCK_N)
    k_base = k_ptr + batch * k_stride_b + kv_head * k_stride_h
    v_base = v_ptr + batch * v_stride_b + kv_head * v_stride_h
    k_SE = _tile(k_base, k_stride_s, segment + first_key, segment + length, E, BLOCK_N, BLOCK_E, True)
    v_SE = _tile(v_base, v_stride_s, segment + first_key, segment + length, E, BLOCK_N, BLOCK_E, True)
    # Only rows in [start, stop) see any of these keys, and all rows in [inner_start, inner_stop) see all of them.
    first_S, last_S = _seen_by(key_S, S, prefix, frame_size, reach, in_prefix, MASK)
    start, inner_stop = _seen_by(first_key, S, prefix, frame_size, reach, in_prefix, MASK)
    last_key = tl.minimum(first_key + BLOCK_N, length) - 1
    inner_start, stop = _seen_by(last_key, S, prefix, frame_size, reach, in_prefix, MASK)
    stop = tl.where(first_key < length, stop, start)  # no row sees a block of padding
    inner_start = tl.minimum(start + tl.cdiv(tl.maximum(inner_start - start, 0), BLOCK_M) * BLOCK_M, stop)
    inner_stop = inner_start + tl.maximum(tl.minimum(inner_stop, stop) - inner_start, 0) // BLOCK_M * BLOCK_M

    dk_SE = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
    dv_SE = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        if in_prefix:
            q_base = q_prefix_ptr + batch * q_prefix_stride_b + head * q_prefix_stride_h
            q_stride = q_prefix_stride_s
        else:
            q_base = q_ptr + batch * q_stride_b + head * q_stride_h
            q_stride = q_stride_s
        d_out_base = d_out_ptr + (batch * S * K * GROUP + head) * E
        lse_base = lse_ptr + (batch * K * GROUP + head) * S
        delta_base = delta_ptr + (batch * K * GROUP + head) * S
        dk_SE, dv_SE = _walk_rows(
            k_SE, v_SE, first_S, last_S, q_base, d_out_base, lse_base, delta_base, q_stride, K * GROUP * E,
            start, inner_start, stop, scale_log2, log2_e,
            dk_SE, dv_SE, E, BLOCK_M, BLOCK_E, True,
        )  # fmt: skip
        dk_SE, dv_SE = _walk_rows(
            k_SE, v_SE, first_S, last_S, q_base, d_out_base, lse_base, delta_base, q_stride, K * GROUP * E,
            inner_start, inner_stop, stop, scale_log2, log2_e,
            dk_SE, dv_SE, E, BLOCK_M, BLOCK_E, False,
        )  # fmt: skip
        dk_SE, dv_SE = _walk_rows(
            k_SE, v_SE, first_S, last_S, q_base, d_out_base, lse_base, delta_base, q_stride, K * GROUP * E,
            inner_stop, stop, stop, scale_log2, log2_e,
            dk_SE, dv_SE, E, BLOCK_M, BLOCK_E, True,
        )  # fmt: skip

    # Keys from `length` on were loaded as zeros but are not seen, so their sums are not gradients.
    dim_E = tl.arange(0, BLOCK_E)
    dk_SE = tl.where((key_S < length)[:, None], dk_SE * scale, 0.0)
    dv_SE = tl.where((key_S < length)[:, None], dv_SE, 0.0)
    at_SE = ((batch * S + segment + key_S[:, None]) * K + kv_head) * E + dim_E[None, :]
    stored_SE = (key_S < count)[:, None] & (dim_E < E)[None, :]
    tl.store(dk_ptr + at_SE, dk_SE.to(dk_ptr.dtype.element_ty), mask=stored_SE)
    tl.store(dv_ptr + at_SE, dv_SE.to(dv_ptr.dtype.element_ty), mask=stored_SE)


def block_sizes(E: int, element_size: int) -> dict[str, dict[str, int]]:
    """Return the block sizes and launch options of each kernel, chosen to fit shared memory and registers."""
    block_e = max(16, triton.next_power_of_2(E))
    big = element_size == 2
    sizes = {
        "forward": (128, 64, 8, 2) if big else (32, 32, 8, 1),
        # Of heads of 128 channels, 64 keys at once would spill registers on sm_90 with some versions of Triton.
        "dq": (128, 32 if block_e == 128 else 64, 8, 2) if big else (32, 16, 8, 1),
        "dkdv": (32, 128, 8, 2) if big else (32, 32, 8, 1),
        "delta": (64, 0, 4, 1),
    }
    return {
        name: {"BLOCK_M": m, "BLOCK_E": block_e, "num_warps": warps, "num_stages": stages}
        | ({"BLOCK_N": n} if n else {})
        for name, (m, n, warps, stages) in sizes.items()
    }


def _layout(q: torch.Tensor, k: torch.Tensor, prefix: int, frame_size: int, reach: int, mask: str) -> dict[str, object]:
    """Return the arguments for the sequence and the heads that all kernels but delta's share."""
    S, N, E = q.shape[1:]
    return {
        "S": S, "prefix": prefix, "frame_size": frame_size, "reach": reach, "scale_log2": E**-0.5 * LOG2_E,
        "E": E, "GROUP": N // k.shape[2], "MASK": MASKS[mask], "HAS_PREFIX": prefix > 0,
    }  # fmt: skip


def _strides(*tensors: torch.Tensor) -> list[int]:
    return [stride for x in tensors for stride in x.stride()[:3]]


@torch.library.custom_op("reelm::attention", mutates_args=())
def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, q_prefix: torch.Tensor, lengths: torch.Tensor,
    prefix: int, frame_size: int, reach: int, mask: str,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return out (B, S, N, E) and lse (B, N, S) in float32; the last axis of every input must have stride 1."""
    B, S, N, E = q.shape
    out, lse = torch.empty(q.shape, dtype=q.dtype, device=q.device), q.new_empty((B, N, S), dtype=torch.float32)
    if out.numel():
        blocks = block_sizes(E, q.element_size())["forward"]
        _forward_kernel[(triton.cdiv(S, blocks["BLOCK_M"]), N, B)](
            q, q_prefix, k, v, lengths, out, lse, *_strides(q, q_prefix, k, v, out),
            **_layout(q, k, prefix, frame_size, reach, mask), **blocks, **FUSED,
        )  # fmt: skip
    return out, lse


@_attention.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, q_prefix: torch.Tensor, lengths: torch.Tensor,
    prefix: int, frame_size: int, reach: int, mask: str,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    B, S, N, _ = q.shape
    return torch.empty(q.shape, dtype=q.dtype, device=q.device), q.new_empty((B, N, S), dtype=torch.float32)


def _empty_gradients(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, prefix: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    return dq, dk, dv, torch.empty_like(dq) if prefix else q.new_empty(0)


@torch.library.custom_op("reelm::attention_backward", mutates_args=())
def _attention_backward(
    d_out: torch.Tensor, d_lse: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, inputs: list[torch.Tensor],
    prefix: int, frame_size: int, reach: int, mask: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return the gradients of q, k, v and q_prefix (empty without a prefix); `inputs` are those of reelm::attention."""
    q, k, v, q_prefix, lengths = inputs
    B, S, N, E = q.shape
    dq, dk, dv, dq_prefix = _empty_gradients(q, k, v, prefix)
    if out.numel():
        blocks, d_out, d_lse = block_sizes(E, q.element_size()), d_out.contiguous(), d_lse.contiguous()
        delta = torch.empty_like(lse)
        sizes = blocks["delta"]
        _delta_kernel[(triton.cdiv(S, sizes["BLOCK_M"]), N, B)](out, d_out, d_lse, delta, S, N, E=E, **sizes, **FUSED)
        layout = _layout(q, k, prefix, frame_size, reach, mask) | {"scale": E**-0.5, "log2_e": LOG2_E}
        tensors, strides = (q, q_prefix, k, v, lengths, d_out, lse, delta), _strides(q, q_prefix, k, v)
        sizes = blocks["dq"]
        _dq_kernel[(triton.cdiv(S, sizes["BLOCK_M"]), N, B)](
            *tensors, dq, dq_prefix, *strides, **layout, **sizes, **FUSED
        )
        sizes = blocks["dkdv"]
        of_prefix, of_video = (triton.cdiv(count, sizes["BLOCK_N"]) for count in (prefix, S - prefix))
        _dkdv_kernel[(of_prefix + of_video, k.shape[2], B)](
            *tensors, dk, dv, *strides, **layout, prefix_blocks=of_prefix, **sizes, **FUSED
        )
    return dq, dk, dv, dq_prefix


@_attention_backward.register_fake
def _(
    d_out: torch.Tensor, d_lse: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, inputs: list[torch.Tensor],
    prefix: int, frame_size: int, reach: int, mask: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    q, k, v = inputs[:3]
    return _empty_gradients(q, k, v, prefix)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.layout = inputs[5:]
    ctx.save_for_backward(*inputs[:5], *output)


def _gradients(ctx: Any, d_out: torch.Tensor, d_lse: torch.Tensor) -> tuple[Any, ...]:
    *inputs, out, lse = ctx.saved_tensors
    dq, dk, dv, dq_prefix = _attention_backward(d_out, d_lse, out, lse, inputs, *ctx.layout)
    return (dq, dk, dv, dq_prefix if dq_prefix.numel() else None, None, *[None for _ in ctx.layout])


_attention.register_autograd(_gradients, setup_context=_save)


def attention_triton(
    q_BSNE: torch.Tensor,
    k_BSKE: torch.Tensor,
    v_BSKE: torch.Tensor,
    *,
    prefix: int,
    q_prefix_BSNE: torch.Tensor | None,
    prefix_lengths_B: torch.Tensor | None,
    frame_size: int,
    window: int | None,
    mask: str,
    return_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute `attention`, with the same arguments, for E a multiple of 16 up to 128.

    Returns:
        out_BSNE, and lse_BNS or None.
    """
    B, S = q_BSNE.shape[:2]
    # The kernels need a stride of 1 within a head; all other strides are arguments.
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q_BSNE, k_BSKE, v_BSKE))
    q_prefix = q if q_prefix_BSNE is None else q_prefix_BSNE
    q_prefix = q_prefix if q_prefix.stride(-1) == 1 else q_prefix.contiguous()
    if prefix_lengths_B is None:
        prefix_lengths_B = torch.full((B,), prefix, dtype=torch.int32, device=q.device)
    frames = max(1, -(-(S - prefix) // frame_size)) if window is None else window
    out, lse = _attention(q, k, v, q_prefix, prefix_lengths_B, prefix, frame_size, (frames - 1) * frame_size, mask)
    return out, lse if return_lse else None
