"""Attention over a text prefix and a window of latent frames for whole sequences, for prefill and training.

    out_BSNE = attention(q_BSNE, k_BSKE, v_BSKE)                           # plain causal attention
    out_BSNE = attention(                                                  # the attention of a video model
        q_BSNE, k_BSKE, v_BSKE, frame_size=64, window=8,
        prefix=32, q_prefix_BSNE=q_prefix_BSNE, prefix_lengths_B=lengths_B,
    )

The sequence consists of `prefix` text slots (right-padded, `prefix_lengths_B` of them valid) and then the video tokens,
`frame_size` for each latent frame. Each token has two queries in one softmax: `q_prefix` is scored against the prefix
keys and `q`, rotated to the token's position in the clip, against the video keys, so that attention to the prefix does
not depend on the length of the clip. The function is differentiable, and torch.compile traces it without a graph break.
"""

from typing import Literal, overload

import torch

from ..core.errors import require
from .attention_reference import attention_reference
from .backend import pick_backend, unserved_heads

Mask = Literal["token", "frame", "full"]


@overload
def attention(
    q_BSNE: torch.Tensor, k_BSKE: torch.Tensor, v_BSKE: torch.Tensor, *, prefix: int = ...,
    q_prefix_BSNE: torch.Tensor | None = ..., prefix_lengths_B: torch.Tensor | None = ..., frame_size: int = ...,
    window: int | None = ..., mask: Mask = ..., return_lse: Literal[False] = ..., backend: str | None = ...,
) -> torch.Tensor: ...  # fmt: skip


@overload
def attention(
    q_BSNE: torch.Tensor, k_BSKE: torch.Tensor, v_BSKE: torch.Tensor, *, prefix: int = ...,
    q_prefix_BSNE: torch.Tensor | None = ..., prefix_lengths_B: torch.Tensor | None = ..., frame_size: int = ...,
    window: int | None = ..., mask: Mask = ..., return_lse: Literal[True], backend: str | None = ...,
) -> tuple[torch.Tensor, torch.Tensor]: ...  # fmt: skip


def attention(
    q_BSNE: torch.Tensor,
    k_BSKE: torch.Tensor,
    v_BSKE: torch.Tensor,
    *,
    prefix: int = 0,
    q_prefix_BSNE: torch.Tensor | None = None,
    prefix_lengths_B: torch.Tensor | None = None,
    frame_size: int = 1,
    window: int | None = None,
    mask: Mask = "token",
    return_lse: bool = False,
    backend: str | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Compute softmax attention with scores scaled by E ** -0.5.

    The mask decides which video tokens a video token sees: "token" those up to itself, "frame" those up to the end of
    its own latent frame, both limited to its own latent frame and the `window - 1` before it, and "full" all. It also
    sees all valid prefix slots. A prefix slot sees the valid prefix slots up to itself and no video, except that under
    "full" it sees all that a video token sees. The output of a token that sees nothing is zero.

    Args:
        q_BSNE: The queries for the video keys; S is `prefix` plus the number of video tokens (either may be 0).
        k_BSKE: The keys; N is a multiple of K, and query head n uses key/value head n // (N // K).
        v_BSKE: The values.
        prefix: The number of prefix slots.
        q_prefix_BSNE: The queries for the prefix keys; by default q_BSNE.
        prefix_lengths_B: The number of valid prefix slots of each row, integers, 0 .. prefix; by default all.
        frame_size: The number of video tokens in a latent frame.
        window: The number of latent frames that a token sees, its own included; None for all.
        mask: The mask: "token", "frame" or "full".
        return_lse: Whether to return the logarithm of each token's sum of exponentials too (-inf if it sees nothing).
        backend: The implementation, "reference" or "triton"; by default the choice of `pick_backend`.

    Returns:
        out_BSNE in the dtype of the queries; with `return_lse` (out_BSNE, lse_BNS in float32, or float64 for float64).

    Raises:
        ReelmError: The shapes, dtypes or devices do not match, or an option is out of range.
    """
    _check(q_BSNE, k_BSKE, v_BSKE, q_prefix_BSNE, prefix_lengths_B)
    require(0 <= prefix <= q_BSNE.shape[1], "prefix", f"must be 0 .. {q_BSNE.shape[1]} (S)", prefix)
    require(frame_size >= 1, "frame_size", "must be at least 1", frame_size)
    require(window is None or window >= 1, "window", "must be at least 1, or None", window)
    require(mask in ("token", "frame", "full"), "mask", "must be 'token', 'frame' or 'full'", mask)
    require(mask != "full" or window is None, "window", "must be None under the full mask", window)
    run = attention_reference
    if pick_backend("attention", backend, q_BSNE, unserved_heads(q_BSNE)) == "triton":
        # Importing reelm must not import triton.
        from .attention_triton import attention_triton as run
    out_BSNE, lse_BNS = run(
        q_BSNE, k_BSKE, v_BSKE, prefix=prefix, q_prefix_BSNE=q_prefix_BSNE, prefix_lengths_B=prefix_lengths_B,
        frame_size=frame_size, window=window, mask=mask, return_lse=return_lse,
    )  # fmt: skip
    return out_BSNE if lse_BNS is None else (out_BSNE, lse_BNS)


def _check(
    q_BSNE: torch.Tensor,
    k_BSKE: torch.Tensor,
    v_BSKE: torch.Tensor,
    q_prefix_BSNE: torch.Tensor | None,
    prefix_lengths_B: torch.Tensor | None,
) -> None:
    require(q_BSNE.ndim == 4, "q_BSNE", "must have 4 dimensions", tuple(q_BSNE.shape))
    B, S, N, E = q_BSNE.shape
    require(k_BSKE.ndim == 4, "k_BSKE", "must have 4 dimensions", tuple(k_BSKE.shape))
    K = k_BSKE.shape[2]
    require(K >= 1 and N % K == 0, "k_BSKE", f"must have a number of heads that divides {N} (N)", K)
    require(k_BSKE.shape == (B, S, K, E), "k_BSKE", f"must have the shape {(B, S, K, E)}", tuple(k_BSKE.shape))
    require(v_BSKE.shape == k_BSKE.shape, "v_BSKE", "must have the shape of k_BSKE", tuple(v_BSKE.shape))
    others = [("k_BSKE", k_BSKE), ("v_BSKE", v_BSKE)]
    if q_prefix_BSNE is not None:
        shape = tuple(q_prefix_BSNE.shape)
        require(q_prefix_BSNE.shape == q_BSNE.shape, "q_prefix_BSNE", "must have the shape of q_BSNE", shape)
        others.append(("q_prefix_BSNE", q_prefix_BSNE))
    for name, tensor in others:
        require(tensor.dtype == q_BSNE.dtype, name, f"must be {q_BSNE.dtype} as q_BSNE is", tensor.dtype)
        require(tensor.device == q_BSNE.device, name, f"must be on {q_BSNE.device} as q_BSNE is", tensor.device)
    if prefix_lengths_B is not None:
        require(
            prefix_lengths_B.shape == (B,), "prefix_lengths_B", f"must have shape {(B,)}", tuple(prefix_lengths_B.shape)
        )
        integer = prefix_lengths_B.dtype in (torch.int64, torch.int32)
        require(integer, "prefix_lengths_B", "must be int64 or int32", prefix_lengths_B.dtype)
        same = prefix_lengths_B.device == q_BSNE.device
        require(same, "prefix_lengths_B", f"must be on {q_BSNE.device} as q_BSNE is", prefix_lengths_B.device)
