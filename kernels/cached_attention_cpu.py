"""`cached_attention` for float32 on a CPU, with as few torch operations as possible.

    table = cpu_table(slots_BL, rotation, mask_BLC, heads=8, kv_heads=2)
    out_BLNE = cached_attention_cpu(qkv_BLJE, q_norm_E, k_norm_E, table, k_cache_BKCE, v_cache_BKCE, prefix=32)

A decoding step is about a hundred small operations, and a third of its time used to be spent on checks and on tables
that every layer computed again. `rope_norm_cache` and `decode_attention` define the result, and a test compares this
path with them.

The products always include all slots of the cache, even those that are still empty. With fewer slots, the last bits of
a result would depend on the other tokens of the pass and on the other rows.
"""

from typing import NamedTuple

import torch

from .decode_attention_reference import product
from .norm import rms_norm
from .rotary import Rotation


class Heads(NamedTuple):
    """The tables by which `split_heads` makes queries, keys and values of a projection, the same in all layers.

    Attributes:
        indices: The (row, slot) indices of the pass's tokens in a cache (B, C, …).
        cos_BL1E, sin_BL1E: The factors of the two products that a rotation is the sum of; see `factors`.
        prefix_factors: The same of the rotation of queries for the prefix keys; None for no rotation.
        epsilon: The number that the norms add to the mean square.
    """

    indices: tuple[torch.Tensor, torch.Tensor]
    cos_BL1E: torch.Tensor
    sin_BL1E: torch.Tensor
    prefix_factors: tuple[torch.Tensor, torch.Tensor] | None
    epsilon: float

    @classmethod
    def of(
        cls, slots_BL: torch.Tensor, rotation: Rotation, prefix_rotation: Rotation | None, epsilon: float
    ) -> "Heads":
        """Return the tables of a pass; `cpu_table` has the arguments."""
        indices = (torch.arange(len(slots_BL))[:, None], slots_BL)
        prefix_factors = None if prefix_rotation is None else factors(prefix_rotation)
        return cls(indices, *factors(rotation), prefix_factors, epsilon)


class CpuTable(NamedTuple):
    """The tables that all layers of a pass share.

    Attributes:
        heads: What `split_heads` needs.
        mask_BKMC: The mask to add to the scores of the M queries that share a key head.
        blind_BKM1: Which of them see no slot at all; None where each sees one.
    """

    heads: Heads
    mask_BKMC: torch.Tensor
    blind_BKM1: torch.Tensor | None


def cpu_table(
    slots_BL: torch.Tensor, rotation: Rotation, mask_BLC: torch.Tensor, *, heads: int, kv_heads: int,
    prefix_rotation: Rotation | None = None, epsilon: float = 1e-6,
) -> CpuTable:  # fmt: skip
    """Return the tables of a pass.

    Args:
        slots_BL: The cache slots of the pass's tokens.
        rotation: The rotations of their queries and keys, (B, L, 1, E / 2) each.
        mask_BLC: The mask from `slot_mask`: 0 where a query sees a slot, else minus infinity.
        heads: The number of query heads, N.
        kv_heads: The number of key/value heads, K.
        prefix_rotation: The rotations of the queries for the prefix keys; None for no rotation.
        epsilon: The number that the norms add to the mean square.
    """
    B, L, C = mask_BLC.shape
    groups = heads // kv_heads
    mask_BKMC = mask_BLC[:, None, None].expand(B, kv_heads, groups, L, C).reshape(B, kv_heads, groups * L, C)
    blind_BKM1 = mask_BKMC.amax(-1, keepdim=True) == float("-inf")
    blind = blind_BKM1 if bool(blind_BKM1.any()) else None
    return CpuTable(Heads.of(slots_BL, rotation, prefix_rotation, epsilon), mask_BKMC, blind)


def factors(rotation: Rotation) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the factors (B, L, 1, E) of a head and of the head with its halves swapped, whose sum is the rotation."""
    cos, sin = rotation
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def norm_and_rotate(
    qk_BLJE: torch.Tensor, q_norm_E: torch.Tensor | None, k_norm_E: torch.Tensor | None, heads: int,
    cos_BL1E: torch.Tensor, sin_BL1E: torch.Tensor, *, epsilon: float = 1e-6,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return queries and keys normalised, and the same rotated, processed together in half as many operations.

    Args:
        qk_BLJE: The heads of the queries, then those of the keys.
        q_norm_E, k_norm_E: The weights of the norms; None for no norms.
        heads: The number of query heads.
        cos_BL1E, sin_BL1E: The result of `factors` for the rotation.
        epsilon: The number that the norms add to the mean square.
    """
    if q_norm_E is not None and k_norm_E is not None:
        norm_JE = torch.cat((q_norm_E.expand(heads, -1), k_norm_E.expand(qk_BLJE.shape[2] - heads, -1)))
        qk_BLJE = rms_norm(qk_BLJE, norm_JE, epsilon)
    return qk_BLJE, _rotated(qk_BLJE, cos_BL1E, sin_BL1E)


def _rotated(x_BLJE: torch.Tensor, cos_BL1E: torch.Tensor, sin_BL1E: torch.Tensor) -> torch.Tensor:
    first, second = x_BLJE.chunk(2, -1)
    return torch.addcmul(x_BLJE * cos_BL1E, torch.cat((second, first), -1), sin_BL1E)


def split_heads(
    qkv_BLJE: torch.Tensor,
    q_norm_E: torch.Tensor | None,
    k_norm_E: torch.Tensor | None,
    heads: Heads,
    k_cache_BKCE: torch.Tensor,
    v_cache_BKCE: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the keys and values of the tokens into the cache, and return their queries (B, L, N, E).

    Args:
        qkv_BLJE: The projection of the pass's tokens: J = N + 2 K heads of the queries, then the keys, then the values.
        q_norm_E, k_norm_E: The weights of the norms; None for no norms.
        heads: The tables of this pass.
        k_cache_BKCE, v_cache_BKCE: The layer's part of the cache, written in place.

    Returns:
        The queries for the video keys, and those for the prefix keys.
    """
    K = k_cache_BKCE.shape[1]
    N = qkv_BLJE.shape[2] - 2 * K
    qk_BLJE, rotated_BLJE = norm_and_rotate(
        qkv_BLJE[:, :, : N + K], q_norm_E, k_norm_E, N, heads.cos_BL1E, heads.sin_BL1E, epsilon=heads.epsilon
    )
    q_prefix_BLNE = qk_BLJE[:, :, :N]
    if heads.prefix_factors is not None:
        q_prefix_BLNE = _rotated(q_prefix_BLNE, *heads.prefix_factors)
    k_cache_BKCE.transpose(1, 2).index_put_(heads.indices, rotated_BLJE[:, :, N:])
    v_cache_BKCE.transpose(1, 2).index_put_(heads.indices, qkv_BLJE[:, :, N + K :])
    return rotated_BLJE[:, :, :N], q_prefix_BLNE


def cached_attention_cpu(
    qkv_BLJE: torch.Tensor,
    q_norm_E: torch.Tensor | None,
    k_norm_E: torch.Tensor | None,
    table: CpuTable,
    k_cache_BKCE: torch.Tensor,
    v_cache_BKCE: torch.Tensor,
    *,
    prefix: int,
) -> torch.Tensor:
    """Write the keys and values of the tokens into the cache, and return the output (B, L, N, E) of attention.

    Args:
        qkv_BLJE: The projection of the pass's tokens: J = N + 2 K heads of the queries, then the keys, then the values.
        q_norm_E, k_norm_E: The weights of the norms; None for no norms.
        table: The tables of this pass.
        k_cache_BKCE, v_cache_BKCE: The layer's part of the cache, written in place.
        prefix: The number of prefix slots.
    """
    q_BLNE, q_prefix_BLNE = split_heads(qkv_BLJE, q_norm_E, k_norm_E, table.heads, k_cache_BKCE, v_cache_BKCE)
    (B, L, N, E), K = q_BLNE.shape, k_cache_BKCE.shape[1]

    # The query heads of a key/value head become the rows of one matrix, so that keys and values are not repeated.
    def rows(q_BLNE: torch.Tensor) -> torch.Tensor:
        return q_BLNE.contiguous().view(B, L, K, N // K, E).permute(0, 2, 3, 1, 4).reshape(B, K, N // K * L, E)

    k_BKEC, q_BKME, q_prefix_BKME = k_cache_BKCE.transpose(2, 3), rows(q_BLNE), rows(q_prefix_BLNE)
    scores = torch.cat((product(q_prefix_BKME, k_BKEC[..., :prefix]), product(q_BKME, k_BKEC[..., prefix:])), -1)
    weights_BKMC = torch.add(table.mask_BKMC, scores, alpha=E**-0.5).softmax(-1)
    if table.blind_BKM1 is not None:  # their softmax is NaN
        weights_BKMC = weights_BKMC.masked_fill(table.blind_BKM1, 0)
    return product(weights_BKMC, v_cache_BKCE).reshape(B, N, L, E).transpose(1, 2)
