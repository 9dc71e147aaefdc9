"""Attention over prefix + window, whole sequences at a time: prefill and training.

The sequence is `prefix` text slots (right-padded, `prefix_lengths_B` of them valid), then the video tokens,
`frame_size` to a latent frame:

    out_BSNE = attention(q_BSNE, q_prefix_BSNE, k_BSKE, v_BSKE, prefix_lengths_B, prefix=32, frame_size=64, window=8)

Two queries a token, one softmax: `q_prefix` scores the prefix keys, `q` (rotated to its place in the clip) the video
keys, so that what a token reads in the prefix does not depend on how far the clip has rolled.
"""

import torch

from ..core.errors import require
from .attention_reference import attention_reference
from .backend import pick_backend, unserved_heads


def attention(
    q_BSNE: torch.Tensor,
    q_prefix_BSNE: torch.Tensor,
    k_BSKE: torch.Tensor,
    v_BSKE: torch.Tensor,
    prefix_lengths_B: torch.Tensor,
    *,
    prefix: int,
    frame_size: int,
    window: int,
    backend: str | None = None,
) -> torch.Tensor:
    """Softmax attention, scores scaled by E ** -0.5, under the prefix + window mask; differentiable.

    Prefix slot i sees the valid prefix slots j <= i. Video token n sees every valid prefix slot, and the video tokens
    m <= n of its own latent frame and the `window - 1` before it. A row that sees nothing is zero.

    Args:
        q_BSNE: queries against the video keys; S is `prefix` plus any number of video tokens (either may be 0).
        q_prefix_BSNE: queries against the prefix keys.
        k_BSKE: keys; N is a multiple of K, and query head n reads key/value head n // (N // K).
        v_BSKE: values.
        prefix_lengths_B: valid prefix slots of each row, integers, 0 .. prefix.
        prefix: prefix slots.
        frame_size: video tokens in a latent frame.
        window: latent frames that a token sees, its own included.
        backend: "reference" or "triton"; by default as `pick_backend` says.

    Returns:
        out_BSNE, in the dtype of the queries.

    Raises:
        ReelmError: the shapes, dtypes or devices do not fit together, or an option is out of range.
    """
    _check(q_BSNE, q_prefix_BSNE, k_BSKE, v_BSKE, prefix_lengths_B)
    require(0 <= prefix <= q_BSNE.shape[1], "prefix", f"must be 0 .. {q_BSNE.shape[1]} (S)", prefix)
    require(frame_size >= 1, "frame_size", "must be at least 1", frame_size)
    require(window >= 1, "window", "must be at least 1", window)
    run = attention_reference
    if pick_backend("attention", backend, q_BSNE, unserved_heads(q_BSNE)) == "triton":
        # Importing reelm must not import triton.
        from .attention_triton import attention_triton as run
    return run(
        q_BSNE, q_prefix_BSNE, k_BSKE, v_BSKE, prefix_lengths_B, prefix=prefix, frame_size=frame_size, window=window
    )


def _check(
    q_BSNE: torch.Tensor,
    q_prefix_BSNE: torch.Tensor,
    k_BSKE: torch.Tensor,
    v_BSKE: torch.Tensor,
    prefix_lengths_B: torch.Tensor,
) -> None:
    require(q_BSNE.ndim == 4, "q_BSNE", "must have 4 dimensions", tuple(q_BSNE.shape))
    B, S, N, E = q_BSNE.shape
    require(q_prefix_BSNE.shape == q_BSNE.shape, "q_prefix_BSNE", "must have the shape of q_BSNE", q_prefix_BSNE.shape)
    require(k_BSKE.ndim == 4, "k_BSKE", "must have 4 dimensions", tuple(k_BSKE.shape))
    K = k_BSKE.shape[2]
    require(K >= 1 and N % K == 0, "k_BSKE", f"must have a number of heads that divides {N} (N)", K)
    require(k_BSKE.shape == (B, S, K, E), "k_BSKE", f"must have the shape {(B, S, K, E)}", tuple(k_BSKE.shape))
    require(v_BSKE.shape == k_BSKE.shape, "v_BSKE", "must have the shape of k_BSKE", tuple(v_BSKE.shape))
    require(prefix_lengths_B.shape == (B,), "prefix_lengths_B", f"must have shape {(B,)}", prefix_lengths_B.shape)
    integer = prefix_lengths_B.dtype in (torch.int64, torch.int32)
    require(integer, "prefix_lengths_B", "must be int64 or int32", prefix_lengths_B.dtype)
    for name, tensor in (("q_prefix_BSNE", q_prefix_BSNE), ("k_BSKE", k_BSKE), ("v_BSKE", v_BSKE)):
        require(tensor.dtype == q_BSNE.dtype, name, f"must be {q_BSNE.dtype} as q_BSNE is", tensor.dtype)
        require(tensor.device == q_BSNE.device, name, f"must be on {q_BSNE.device} as q_BSNE is", tensor.device)
    same = prefix_lengths_B.device == q_BSNE.device
    require(same, "prefix_lengths_B", f"must be on {q_BSNE.device} as q_BSNE is", prefix_lengths_B.device)
