"""Norms, rotation and cache write of the next tokens in one kernel, between their projection and their attention.

    q_BLNE, q_prefix_BLNE = rope_norm_cache(
        qkv_BLJE, q_norm_E, k_norm_E, slots_BL, k_cache_BKCE, v_cache_BKCE, rotation=rotation
    )
    out_BLNE = decode_attention(q_BLNE, q_prefix_BLNE, k_cache_BKCE, v_cache_BKCE, …)

The caches may be int8, with one scale for each head of each slot. Slots and rotation are the same in all layers, so the
caller computes them once for each pass, from the exact positions.
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
    q_norm_E: torch.Tensor | None,
    k_norm_E: torch.Tensor | None,
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

    A query or key x becomes x / sqrt(mean(x ** 2) + epsilon) * weight, and then the pairs (x[i], x[i + E / 2]) are
    rotated by the token's angles. Without weights of the norms it is not normalised. All is computed in float32
    (float64 for float64), and each result is rounded once, to the dtype of its tensor.

    An int8 cache stores x as round(x / scale), ties to even, with scale = max |x| / 127 over the head in float32, or 1
    if the head is all zeros; x is approximated by the int8 times its scale.

    Args:
        qkv_BLJE: The projection of L tokens: J = N + 2 K heads of the queries, then the keys, then the values.
        q_norm_E, k_norm_E: The weights of the norms of queries and of keys; both None for no norms.
        slots_BL: The slot of each token, int64, 0 .. C - 1, all different within a row, as from `RingCache.slots`.
        k_cache_BKCE: The cache of keys, in the dtype of qkv or int8.
        v_cache_BKCE: The cache of values, in the dtype of k_cache_BKCE.
        rotation: The cosines and sines of the angles, each (B, L, 1, E / 2) or (1, L, 1, E / 2).
        epsilon: The number to add to the mean square.
        k_scales_BKC: The scales of an int8 cache of keys, float32, which are written too.
        v_scales_BKC: The scales of an int8 cache of values, float32, which are written too.
        backend: The implementation, "reference" or "triton"; by default the choice of `pick_backend`.

    Returns:
        q_BLNE, the queries for the video keys, and q_prefix_BLNE, the same without rotation for the prefix keys, in the
        dtype of qkv.

    Raises:
        ReelmError: The shapes, dtypes or devices do not match, or scales are missing or not needed.
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
    q_norm_E: torch.Tensor | None,
    k_norm_E: torch.Tensor | None,
    slots_BL: torch.Tensor,
    k_cache_BKCE: torch.Tensor,
    v_cache_BKCE: torch.Tensor,
) -> None:
    require(qkv_BLJE.ndim == 4, "qkv_BLJE", "must have 4 dimensions", tuple(qkv_BLJE.shape))
    B, L, J, E = qkv_BLJE.shape
    require(qkv_BLJE.dtype.is_floating_point, "qkv_BLJE", "must be of a floating-point dtype", qkv_BLJE.dtype)
    require(E >= 2 and E % 2 == 0, "qkv_BLJE", "must have an even head_dim", E)
    require(k_cache_BKCE.ndim == 4, "k_cache_BKCE", "must have 4 dimensions", tuple(k_cache_BKCE.shape))
    K, C = k_cache_BKCE.shape[1:3]
    require(K >= 1 and 2 * K < J, "k_cache_BKCE", f"must have 1 .. {(J - 1) // 2} heads, J being {J}", K)
    like, dtypes = ("qkv_BLJE", qkv_BLJE), (qkv_BLJE.dtype, torch.int8)
    check_tensor("k_cache_BKCE", k_cache_BKCE, (B, K, C, E), dtypes, like)
    check_tensor("v_cache_BKCE", v_cache_BKCE, (B, K, C, E), (k_cache_BKCE.dtype,), like)
    check_tensor("slots_BL", slots_BL, (B, L), (torch.int64,), like)
    both = (q_norm_E is None) == (k_norm_E is None)
    require(both, "q_norm_E, k_norm_E", "must both be given or both be None", (q_norm_E, k_norm_E))
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
