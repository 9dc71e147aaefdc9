"""Attention of the next tokens of each row over the ring cache, the inner loop of sampling.

The C slots of the cache are `prefix` text slots and then a ring of whole latent frames, in which video position p is in
slot prefix + p % ring. The keys and values of the L query tokens must be in the cache already:

    out_BLNE = decode_attention(
        q_BLNE, q_prefix_BLNE, k_cache_BKCE, v_cache_BKCE, positions_B, prefix_lengths_B,
        prefix=32, frame_size=64, window=8,
    )

Token by token, the result equals that of `attention` over the whole history. The host reads nothing that depends on the
positions, so the call can be captured in a CUDA graph. There are options, which can be combined:

- `ancestors_BLA`, `query_positions_BL`: a pass over tokens at other than successive positions, such as a diagonal or a
  tree of drafts;
- `k_scales_BKC`, `v_scales_BKC`: an int8 cache;
- `mask_BLC`: a mask that many layers share.
"""

# ruff: noqa: PLR0913 (an op with options)

from collections.abc import Callable

import torch

from ..core.errors import require
from .backend import pick_backend, unserved_heads
from .check import check_tensor
from .decode_attention_reference import decode_attention_reference

MOST_ROWS = 65535  # the limit of a CUDA grid's third axis


@torch.no_grad()
def decode_attention(
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
    backend: str | None = None,
) -> torch.Tensor:
    """Compute softmax attention, with scores scaled by E ** -0.5, of L tokens over the prefix and window in the cache.

    Positions before `positions_B` are past. A query sees every valid prefix slot, if its latent frame is at least
    `prefix_from`, and the past video positions of its own latent frame and the `window - 1` before it. From
    `positions_B` on there are A newer slots, of which `ancestors_BLA` gives those that each query sees, at any
    distance. Without it the newer slots are those of the L queries themselves, and each query sees those in its window
    up to itself. No other slot affects the result, whatever it contains, NaN included. The output of a query that sees
    nothing is zero.

    The ring must have room for all past positions that the first query sees and the newer slots, wherever in a latent
    frame they start: ring >= window * frame_size + A - 1. With `ancestors_BLA` only ring >= (window - 1) * frame_size
    + A is required, which is enough if they start a latent frame. A caller that writes drafts to A slots and rejects
    some must size the ring for that A in later, shorter calls too, since the drafts have overwritten the oldest slots.

    Args:
        q_BLNE: The queries for the video keys.
        q_prefix_BLNE: The queries for the prefix keys.
        k_cache_BKCE: The keys; N is a multiple of K, and query head n uses key/value head n // (N // K).
        v_cache_BKCE: The values.
        positions_B: The video position of the first newer slot of each row, int64, in latent frame 0 .. 2 ** 31 - 2; or
            -1, which no query sees, and whose own query sees the prefix alone.
        prefix_lengths_B: The number of valid prefix slots of each row, integers, 0 .. prefix.
        prefix: The number of prefix slots.
        frame_size: The number of video tokens in a latent frame.
        window: The number of latent frames that a token sees, its own included.
        prefix_from: The latent frame from which on queries see the prefix; 0 for all queries.
        ancestors_BLA: Whether query l sees the a-th newer slot (B rows, or 1 for all; A is at least L).
        query_positions_BL: The video position of each query, int64, which determines the start of its window; by
            default `positions_B` + l. A position before `positions_B` counts as `positions_B`.
        k_scales_BKC, v_scales_BKC: The factors of the keys and the values of each slot, float32, at least 0 for the
            values; required for an int8 cache and not allowed for any other.
        mask_BLC: The mask from `slot_mask` for the other arguments, float32, which saves the reference from computing
            it in every layer.
        backend: The implementation, "reference" or "triton"; by default the choice of `pick_backend`.

    Returns:
        out_BLNE, in the dtype of the queries.

    Raises:
        ReelmError: The shapes, dtypes or devices do not match, an option is out of range, or the ring is not a whole
            number of latent frames or is too short.
    """
    _check_tensors(q_BLNE, q_prefix_BLNE, k_cache_BKCE, v_cache_BKCE, k_scales_BKC, v_scales_BKC)
    (B, L), C = q_BLNE.shape[:2], k_cache_BKCE.shape[2]
    _check_rows(q_BLNE, positions_B, prefix_lengths_B, ancestors_BLA, query_positions_BL)
    check_tensor("mask_BLC", mask_BLC, (B, L, C), (torch.float32,), ("q_BLNE", q_BLNE))
    _check_sizes(frame_size=frame_size, window=window, prefix=prefix, prefix_from=prefix_from)
    _check_ring(C - prefix, frame_size, window, L, None if ancestors_BLA is None else ancestors_BLA.shape[2])
    run: Callable[..., torch.Tensor] = decode_attention_reference
    reason = f"more than {MOST_ROWS} rows" if B > MOST_ROWS else unserved_heads(q_BLNE)
    if pick_backend("decode_attention", backend, q_BLNE, reason) == "triton":
        # Importing reelm must not import triton.
        from .decode_attention_triton import decode_attention_triton as run
    return run(
        q_BLNE, q_prefix_BLNE, k_cache_BKCE, v_cache_BKCE, positions_B, prefix_lengths_B,
        prefix=prefix, frame_size=frame_size, window=window, prefix_from=prefix_from,
        ancestors_BLA=ancestors_BLA, query_positions_BL=query_positions_BL,
        k_scales_BKC=k_scales_BKC, v_scales_BKC=v_scales_BKC, mask_BLC=mask_BLC,
    )  # fmt: skip


def _check_sizes(**sizes: int) -> None:
    for name, number in sizes.items():
        least = 0 if name.startswith("prefix") else 1
        require(number >= least, name, f"must be at least {least}", number)


def _check_ring(ring: int, frame_size: int, window: int, queries: int, newer: int | None) -> None:
    whole = ring % frame_size == 0
    require(whole, "k_cache_BKCE", f"must have a ring (C - prefix) of whole frames of {frame_size}", ring)
    least = window * frame_size - 1 + queries if newer is None else (window - 1) * frame_size + newer
    require(ring >= least, "k_cache_BKCE", f"must have a ring (C - prefix) of at least {least} slots", ring)


def _check_tensors(
    q_BLNE: torch.Tensor,
    q_prefix_BLNE: torch.Tensor,
    k_cache_BKCE: torch.Tensor,
    v_cache_BKCE: torch.Tensor,
    k_scales_BKC: torch.Tensor | None,
    v_scales_BKC: torch.Tensor | None,
) -> None:
    require(q_BLNE.ndim == 4, "q_BLNE", "must have 4 dimensions", tuple(q_BLNE.shape))
    B, L, N, E = q_BLNE.shape
    require(L >= 1, "q_BLNE", "must have at least 1 token", L)
    require(k_cache_BKCE.ndim == 4, "k_cache_BKCE", "must have 4 dimensions", tuple(k_cache_BKCE.shape))
    K, C = k_cache_BKCE.shape[1:3]
    require(K >= 1 and N % K == 0, "k_cache_BKCE", f"must have a number of heads that divides {N} (N)", K)
    int8 = k_cache_BKCE.dtype == torch.int8
    for name, tensor in (("k_scales_BKC", k_scales_BKC), ("v_scales_BKC", v_scales_BKC)):
        rule = "must be given with a cache of int8" if int8 else "must be None, the cache not being int8"
        require((tensor is not None) == int8, name, rule, None if tensor is None else tuple(tensor.shape))
    like = ("q_BLNE", q_BLNE)
    cached, dtype = (B, K, C, E), torch.int8 if int8 else q_BLNE.dtype
    check_tensor("q_prefix_BLNE", q_prefix_BLNE, q_BLNE.shape, (q_BLNE.dtype,), like)
    check_tensor("k_cache_BKCE", k_cache_BKCE, cached, (dtype,), like)
    check_tensor("v_cache_BKCE", v_cache_BKCE, cached, (dtype,), like)
    check_tensor("k_scales_BKC", k_scales_BKC, cached[:3], (torch.float32,), like)
    check_tensor("v_scales_BKC", v_scales_BKC, cached[:3], (torch.float32,), like)


def _check_rows(
    q_BLNE: torch.Tensor,
    positions_B: torch.Tensor,
    prefix_lengths_B: torch.Tensor,
    ancestors_BLA: torch.Tensor | None,
    query_positions_BL: torch.Tensor | None,
) -> None:
    (B, L), like = q_BLNE.shape[:2], ("q_BLNE", q_BLNE)
    check_tensor("positions_B", positions_B, (B,), (torch.int64,), like)
    check_tensor("prefix_lengths_B", prefix_lengths_B, (B,), (torch.int64, torch.int32), like)
    check_tensor("query_positions_BL", query_positions_BL, (B, L), (torch.int64,), like)
    if ancestors_BLA is not None:
        shape = tuple(ancestors_BLA.shape)
        fits = len(shape) == 3 and shape[0] in (1, B) and shape[1] == L and shape[2] >= L
        require(fits, "ancestors_BLA", f"must have the shape {(B, L)} or {(1, L)} and at least {L} (L) slots", shape)
        check_tensor("ancestors_BLA", ancestors_BLA, shape, (torch.bool,), like)
