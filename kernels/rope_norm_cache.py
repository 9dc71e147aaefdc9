"""What lies between the projection of the next tokens and their attention, in one launch: norm, rotation, ring write.

    q_BLNE, q_prefix_BLNE = rope_norm_cache(
        qkv_BLJE, q_norm_E, k_norm_E, slots_BL, k_cache_BKCE, v_cache_BKCE, rotation=rotation
    )
    out_BLNE = decode_attention(q_BLNE, q_prefix_BLNE, k_cache_BKCE, v_cache_BKCE, …)

The caches may be int8, each head of each slot with a scale of its own. Slots and rotation are the same in all layers of
a step: they are made once, exactly, from the positions by who calls, and not again in every layer.
"""

import torch

from ..core.errors import ReelmError, require
from .backend import FLOATS, pick_backend
from .check import check_tensor
from .rope_norm_cache_reference import rope_norm_cache_reference
from .rotary import Rotation


@torch.no_grad()
def rope_norm_cache(
    qkv_BLJE: torch.Tensor,
    q_norm_E: torch.Tensor,
    k_norm_E: torch.Tensor,
    slots_BL: torch.Tensor,
    k_cache_BKCE: torch.Tensor,
    v_cache_BKCE: torch.Tensor,
    *,
    rotation: Rotation,
    epsilon: float = 1e-6,
    k_scales_BKC: torch.Tensor | None = None,
    v_scales_BKC: torch.Tensor | None = None,
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalise queries and keys, rotate them, and write keys and values into the slots of their tokens, in place.

    A query or key x becomes x / sqrt(mean(x ** 2) + epsilon) * weight, then the pairs (x[i], x[i + E / 2]) turn by the
    token's angles. All in float32 (float64 for float64): each result is rounded once, to the dtype of its tensor.

    In an int8 cache x is held as round(x / scale), ties to even, with scale = max |x| / 127 over the head in float32,
    or 1 where the head is all zeros: x is about the int8 times its scale.

    Args:
        qkv_BLJE: the projection of L tokens: H = N + 2 K heads, first those of the queries, then keys, then values.
        q_norm_E: weights of the queries' norm.
        k_norm_E: weights of the keys' norm.
        slots_BL: the slot of each token, int64, 0 .. C - 1, no two of a row the same; `RingCache.slots` makes them.
        k_cache_BKCE: keys, in the dtype of qkv or int8.
        v_cache_BKCE: values, the same.
        rotation: cosines and sines of the angles, each (B, L, 1, E / 2) or (1, L, 1, E / 2).
        epsilon: added to the mean square.
        k_scales_BKC: scales of an int8 cache, float32, written too.
        v_scales_BKC: the same for the values.
        backend: "reference" or "triton"; by default as `pick_backend` says.

    Returns:
        (q_BLNE, q_prefix_BLNE): the queries against the video keys, and the same unrotated against the prefix keys;
        in the dtype of qkv.

    Raises:
        ReelmError: the shapes, dtypes or devices do not fit together, or scales are missing or without use.
    """
    _check(qkv_BLJE, q_norm_E, k_norm_E, slots_BL, k_cache_BKCE, v_cache_BKCE)
    _check_rotation(qkv_BLJE, rotation)
    _check_scales(qkv_BLJE, k_cache_BKCE, k_scales_BKC, v_scales_BKC)
    require(epsilon >= 0, "epsilon", "must be at least 0", epsilon)
    run = rope_norm_cache_reference
    unserved = None if qkv_BLJE.dtype in FLOATS else f"dtype {qkv_BLJE.dtype}"
    if pick_backend("rope_norm_cache", backend, qkv_BLJE, unserved) == "triton":
        # Importing reelm must not import triton.
        from .rope_norm_cache_triton import rope_norm_cache_triton as run
    return run(
        qkv_BLJE, q_norm_E, k_norm_E, slots_BL, k_cache_BKCE, v_cache_BKCE,
        rotation=rotation, epsilon=epsilon, k_scales_BKC=k_scales_BKC, v_scales_BKC=v_scales_BKC,
    )  # fmt: skip


def _check(
    qkv_BLJE: torch.Tensor,
    q_norm_E: torch.Tensor,
    k_norm_E: torch.Tensor,
    slots_BL: torch.Tensor,
    k_cache_BKCE: torch.Tensor,
    v_cache_BKCE: torch.Tensor,
) -> None:
    require(qkv_BLJE.ndim == 4, "qkv_BLJE", "must have 4 dimensions", tuple(qkv_BLJE.shape))
    B, L, H, E = qkv_BLJE.shape
    require(qkv_BLJE.dtype.is_floating_point, "qkv_BLJE", "must be of a floating-point dtype", qkv_BLJE.dtype)
    require(E >= 2 and E % 2 == 0, "qkv_BLJE", "must have an even head_dim", E)
    require(k_cache_BKCE.ndim == 4, "k_cache_BKCE", "must have 4 dimensions", tuple(k_cache_BKCE.shape))
    K, C = k_cache_BKCE.shape[1:3]
    require(K >= 1 and 2 * K < H, "k_cache_BKCE", f"must have 1 .. {(H - 1) // 2} heads, H being {H}", K)
    like, dtypes = ("qkv_BLJE", qkv_BLJE), (qkv_BLJE.dtype, torch.int8)
    check_tensor("k_cache_BKCE", k_cache_BKCE, (B, K, C, E), dtypes, like)
    check_tensor("v_cache_BKCE", v_cache_BKCE, (B, K, C, E), (k_cache_BKCE.dtype,), like)
    check_tensor("slots_BL", slots_BL, (B, L), (torch.int64,), like)
    for name, tensor in (("q_norm_E", q_norm_E), ("k_norm_E", k_norm_E)):
        check_tensor(name, tensor, (E,), (torch.float64, *FLOATS), like)
    for name, cache in (("k_cache_BKCE", k_cache_BKCE), ("v_cache_BKCE", v_cache_BKCE)):
        if cache.stride(3) != 1:
            raise ReelmError(f"{name}: must be contiguous along its last axis, got strides {cache.stride()}")


def _check_rotation(qkv_BLJE: torch.Tensor, rotation: Rotation) -> None:
    B, L, _, E = qkv_BLJE.shape
    for part in rotation:
        shape = (1 if part.shape[0] == 1 else B, L, 1, E // 2)
        check_tensor("rotation", part, shape, (torch.float64, *FLOATS), ("qkv_BLJE", qkv_BLJE))


def _check_scales(
    qkv_BLJE: torch.Tensor,
    k_cache_BKCE: torch.Tensor,
    k_scales_BKC: torch.Tensor | None,
    v_scales_BKC: torch.Tensor | None,
) -> None:
    int8 = k_cache_BKCE.dtype == torch.int8
    for name, scales in (("k_scales_BKC", k_scales_BKC), ("v_scales_BKC", v_scales_BKC)):
        rule = "must be given for int8 caches" if int8 else "must be None unless the caches are int8"
        require((scales is not None) == int8, name, rule, None if scales is None else tuple(scales.shape))
        check_tensor(name, scales, k_cache_BKCE.shape[:3], (torch.float32,), ("qkv_BLJE", qkv_BLJE))
