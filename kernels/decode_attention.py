"""Attention of the next tokens of each row against the ring cache: the inner loop of sampling.

The cache has C = `prefix` text slots, then a ring of whole latent frames: video position p lies in slot
prefix + p % ring. The keys and values of the L query tokens are already in it:

    out_BLNE = decode_attention(
        q_BLNE, q_prefix_BLNE, k_cache_BKCE, v_cache_BKCE, positions_B, prefix_lengths_B,
        prefix=32, frame_size=64, window=8,
    )

Called token by token it equals `attention` over the whole history. Nothing position-dependent is read on the host.
"""

import torch

from ..core.errors import require
from .backend import pick_backend, unserved_heads
from .decode_attention_reference import decode_attention_reference


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
    backend: str | None = None,
) -> torch.Tensor:
    """Softmax attention, scores scaled by E ** -0.5, of L tokens against prefix + window in the cache.

    The query at video position n sees every valid prefix slot, and the video positions m <= n of its own latent frame
    and the `window - 1` before it. Other slots are never read into the result, whatever they hold, NaN included.

    The ring must hold all that the first of L queries sees beside the L new tokens, wherever in a latent frame they
    start: ring >= window * frame_size + L - 1. Whoever writes drafts of L tokens and drops some must size the ring by
    that L for later, shorter calls too: the dropped ones have overwritten the oldest.

    Args:
        q_BLNE: queries against the video keys.
        q_prefix_BLNE: queries against the prefix keys.
        k_cache_BKCE: keys; N is a multiple of K, and query head n reads key/value head n // (N // K).
        v_cache_BKCE: values.
        positions_B: video position of the first of the L queries of each row, int64, at least 0.
        prefix_lengths_B: valid prefix slots of each row, integers, 0 .. prefix.
        prefix: prefix slots.
        frame_size: video tokens in a latent frame.
        window: latent frames that a token sees, its own included.
        backend: "reference" or "triton"; by default as `pick_backend` says.

    Returns:
        out_BLNE, in the dtype of the queries.

    Raises:
        ReelmError: the shapes, dtypes or devices do not fit together, an option is out of range, or the ring is no
            whole number of latent frames or too short.
    """
    _check(q_BLNE, q_prefix_BLNE, k_cache_BKCE, v_cache_BKCE, positions_B, prefix_lengths_B)
    require(frame_size >= 1, "frame_size", "must be at least 1", frame_size)
    require(window >= 1, "window", "must be at least 1", window)
    L, ring = q_BLNE.shape[1], k_cache_BKCE.shape[2] - prefix
    require(prefix >= 0, "prefix", "must be at least 0", prefix)
    require(
        ring % frame_size == 0, "k_cache_BKCE", f"must have a ring (C - prefix) of whole frames of {frame_size}", ring
    )
    least = window * frame_size + L - 1
    require(ring >= least, "k_cache_BKCE", f"must have a ring (C - prefix) of at least {least} slots", ring)
    run = decode_attention_reference
    if pick_backend("decode_attention", backend, q_BLNE, unserved_heads(q_BLNE)) == "triton":
        # Importing reelm must not import triton.
        from .decode_attention_triton import decode_attention_triton as run
    return run(
        q_BLNE, q_prefix_BLNE, k_cache_BKCE, v_cache_BKCE, positions_B, prefix_lengths_B,
        prefix=prefix, frame_size=frame_size, window=window,
    )  # fmt: skip


def _check(
    q_BLNE: torch.Tensor,
    q_prefix_BLNE: torch.Tensor,
    k_cache_BKCE: torch.Tensor,
    v_cache_BKCE: torch.Tensor,
    positions_B: torch.Tensor,
    prefix_lengths_B: torch.Tensor,
) -> None:
    require(q_BLNE.ndim == 4, "q_BLNE", "must have 4 dimensions", tuple(q_BLNE.shape))
    B, L, N, E = q_BLNE.shape
    require(L >= 1, "q_BLNE", "must have at least 1 token", L)
    require(q_prefix_BLNE.shape == q_BLNE.shape, "q_prefix_BLNE", "must have the shape of q_BLNE", q_prefix_BLNE.shape)
    require(k_cache_BKCE.ndim == 4, "k_cache_BKCE", "must have 4 dimensions", tuple(k_cache_BKCE.shape))
    K, C = k_cache_BKCE.shape[1:3]
    require(K >= 1 and N % K == 0, "k_cache_BKCE", f"must have a number of heads that divides {N} (N)", K)
    require(
        k_cache_BKCE.shape == (B, K, C, E), "k_cache_BKCE", f"must have the shape {(B, K, C, E)}", k_cache_BKCE.shape
    )
    same = v_cache_BKCE.shape == k_cache_BKCE.shape
    require(same, "v_cache_BKCE", "must have the shape of k_cache_BKCE", tuple(v_cache_BKCE.shape))
    require(positions_B.shape == (B,), "positions_B", f"must have shape {(B,)}", tuple(positions_B.shape))
    require(positions_B.dtype == torch.int64, "positions_B", "must be int64", positions_B.dtype)
    require(prefix_lengths_B.shape == (B,), "prefix_lengths_B", f"must have shape {(B,)}", prefix_lengths_B.shape)
    integer = prefix_lengths_B.dtype in (torch.int64, torch.int32)
    require(integer, "prefix_lengths_B", "must be int64 or int32", prefix_lengths_B.dtype)
    for name, tensor in (
        ("q_prefix_BLNE", q_prefix_BLNE),
        ("k_cache_BKCE", k_cache_BKCE),
        ("v_cache_BKCE", v_cache_BKCE),
    ):
        require(tensor.dtype == q_BLNE.dtype, name, f"must be {q_BLNE.dtype} as q_BLNE is", tensor.dtype)
    for name, tensor in (
        ("k_cache_BKCE", k_cache_BKCE),
        ("positions_B", positions_B),
        ("prefix_lengths_B", prefix_lengths_B),
    ):
        require(tensor.device == q_BLNE.device, name, f"must be on {q_BLNE.device} as q_BLNE is", tensor.device)
