"""`cached_attention` for float32 on a CPU, in as few operations as the step allows.

    table = cpu_table(slots_BL, rotation, mask_BLC, heads=8, kv_heads=2)
    out_BLNE = cached_attention_cpu(qkv_BLJE, q_norm_E, k_norm_E, table, k_cache_BKCE, v_cache_BKCE, prefix=32)

A decoding step is some hundred small operations, and a third of its time once went into what surrounds them: checks,
and tables that were made anew in every layer. `rope_norm_cache` and `decode_attention` are the definition; a test holds
this path against them.

All slots are attended to, also those that nothing has been written to yet: with fewer slots the last bits of a product
would depend on how far the block and the other rows reach.
"""

from typing import NamedTuple

import torch

from .decode_attention_reference import product
from .norm import rms_norm
from .rotary import Rotation


class CpuTable(NamedTuple):
    """What is the same in every layer of a step.

    Attributes:
        place: (row, slot) indices of the step's tokens in a cache (B, C, …).
        cos_BL1E, sin_BL1E: factors of the two products that a rotation is.
        mask_BKMC: what is added to the scores of the M queries that share a key head.
    """

    place: tuple[torch.Tensor, torch.Tensor]
    cos_BL1E: torch.Tensor
    sin_BL1E: torch.Tensor
    mask_BKMC: torch.Tensor


def cpu_table(
    slots_BL: torch.Tensor, rotation: Rotation, mask_BLC: torch.Tensor, *, heads: int, kv_heads: int
) -> CpuTable:
    """The table of a step.

    Args:
        slots_BL: the cache slots of its tokens.
        rotation: the rotations of its queries and keys, (B, L, 1, E / 2) each.
        mask_BLC: what `slot_mask` makes: 0 where a query sees a slot, else minus infinity.
        heads: N, heads of queries.
        kv_heads: K, heads of keys and values.
    """
    B, L, C = mask_BLC.shape
    groups = heads // kv_heads
    mask_BKMC = mask_BLC[:, None, None].expand(B, kv_heads, groups, L, C).reshape(B, kv_heads, groups * L, C)
    place = (torch.arange(B)[:, None], slots_BL)
    return CpuTable(place, *factors(rotation), mask_BKMC)


def factors(rotation: Rotation) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors (B, L, 1, E) of a head and of the same head with its halves exchanged, whose sum is its rotation."""
    cos, sin = rotation
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def norm_and_rotate(
    qk_BLJE: torch.Tensor, q_norm_E: torch.Tensor, k_norm_E: torch.Tensor, heads: int, cos_BL1E: torch.Tensor,
    sin_BL1E: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Queries and keys normalised, and the same rotated: half as many operations as one after the other.

    Args:
        qk_BLJE: heads of queries first, then of keys.
        q_norm_E, k_norm_E: the weights of the norms.
        heads: how many are of queries.
        cos_BL1E, sin_BL1E: what `factors` makes of a rotation.
    """
    norm_JE = torch.cat((q_norm_E.expand(heads, -1), k_norm_E.expand(qk_BLJE.shape[2] - heads, -1)))
    normed_BLJE = rms_norm(qk_BLJE, norm_JE, 1e-6)
    first, second = normed_BLJE.chunk(2, -1)
    return normed_BLJE, torch.addcmul(normed_BLJE * cos_BL1E, torch.cat((second, first), -1), sin_BL1E)


def cached_attention_cpu(
    qkv_BLJE: torch.Tensor,
    q_norm_E: torch.Tensor,
    k_norm_E: torch.Tensor,
    table: CpuTable,
    k_cache_BKCE: torch.Tensor,
    v_cache_BKCE: torch.Tensor,
    *,
    prefix: int,
) -> torch.Tensor:
    """The output (B, L, N, E) of attention; keys and values of the tokens are written into the cache."""
    (B, L, H, E), K = qkv_BLJE.shape, k_cache_BKCE.shape[1]
    N = H - 2 * K
    G = N // K
    qk_BLJE, rotated_BLJE = norm_and_rotate(
        qkv_BLJE[:, :, : N + K], q_norm_E, k_norm_E, N, table.cos_BL1E, table.sin_BL1E
    )

    # The query heads of a key/value head go into the rows of one matrix: no key or value is repeated.
    def rows(q_BLNE: torch.Tensor) -> torch.Tensor:
        return q_BLNE.view(B, L, K, G, E).permute(0, 2, 3, 1, 4).reshape(B, K, G * L, E)

    k_cache_BKCE.transpose(1, 2).index_put_(table.place, rotated_BLJE[:, :, N:])
    v_cache_BKCE.transpose(1, 2).index_put_(table.place, qkv_BLJE[:, :, N + K :])
    k_BKEC = k_cache_BKCE.transpose(2, 3)
    q_BKME, q_prefix_BKME = rows(rotated_BLJE[:, :, :N].contiguous()), rows(qk_BLJE[:, :, :N].contiguous())
    scores = torch.cat((product(q_prefix_BKME, k_BKEC[..., :prefix]), product(q_BKME, k_BKEC[..., prefix:])), -1)
    weights_BKMC = torch.add(table.mask_BKMC, scores, alpha=E**-0.5).softmax(-1)
    return product(weights_BKMC, v_cache_BKCE).reshape(B, N, L, E).transpose(1, 2)
