"""`cached_attention` for float32 on a CPU over a large cache: only the blocks of slots that a query sees are read.

    table = large_table(slots_BL, rotation, visible_BLC, prefix=2560)
    out_BLNE = large_cache_attention(qkv_BLJE, q_norm_E, k_norm_E, table, k_cache_BKCE, v_cache_BKCE)

A latent frame of a large picture has thousands of tokens, and a pass that reads one has as many queries: their scores
with all slots at once would take hundreds of megabytes in every layer. The slots are divided into blocks that do not
depend on the pass, and sums are taken block by block, in order. A block that no query sees would add zeros, so that
leaving it out changes no bit: a row has the same bits alone, in a batch, and with more queries beside it.
"""

import itertools
from typing import NamedTuple

import torch

from .cached_attention_cpu import Heads, split_heads
from .decode_attention_reference import product
from .rotary import Rotation

LARGE = 4096  # the slots from which on it pays
BLOCK = 2048  # slots
QUERIES = 128  # of a row that are computed at a time


class Block(NamedTuple):
    """Slots of the cache that some of a tile's queries see.

    Attributes:
        start, stop: The slots.
        hidden_B11LX: Which of them each query does not see; None where each sees all.
    """

    start: int
    stop: int
    hidden_B11LX: torch.Tensor | None


class Tile(NamedTuple):
    """Queries that are computed together.

    Attributes:
        start, stop: The indices of the queries.
        blocks: The blocks of slots that one of them sees, those of the prefix first.
    """

    start: int
    stop: int
    blocks: list[Block]


class LargeTable(NamedTuple):
    """The tables that all layers of a pass share.

    Attributes:
        heads: What `split_heads` needs.
        prefix: The number of prefix slots.
        tiles: The queries, and the slots that they see.
    """

    heads: Heads
    prefix: int
    tiles: list[Tile]


def large_table(
    slots_BL: torch.Tensor, rotation: Rotation, visible_BLC: torch.Tensor, *, prefix: int,
    prefix_rotation: Rotation | None, epsilon: float,
) -> LargeTable:  # fmt: skip
    """Return the tables of a pass.

    Args:
        slots_BL: The cache slots of the pass's tokens.
        rotation: The rotations of their queries and keys, (B, L, 1, E / 2) each.
        visible_BLC: Whether a query sees a slot (`visible_slots`).
        prefix: The number of prefix slots.
        prefix_rotation: The rotations of the queries for the prefix keys; None for no rotation.
        epsilon: The number that the norms add to the mean square.
    """
    L, C = visible_BLC.shape[1:]
    edges = [*range(0, prefix, BLOCK), *range(prefix, C, BLOCK), C]
    tiles = []
    for start in range(0, L, QUERIES):
        stop, blocks = min(start + QUERIES, L), []
        for first, last in itertools.pairwise(edges):
            visible_BLX = visible_BLC[:, start:stop, first:last]
            if bool(visible_BLX.any()):
                hidden = None if bool(visible_BLX.all()) else ~visible_BLX[:, None, None]
                blocks.append(Block(first, last, hidden))
        tiles.append(Tile(start, stop, blocks))
    return LargeTable(Heads.of(slots_BL, rotation, prefix_rotation, epsilon), prefix, tiles)


def large_cache_attention(
    qkv_BLJE: torch.Tensor,
    q_norm_E: torch.Tensor | None,
    k_norm_E: torch.Tensor | None,
    table: LargeTable,
    k_cache_BKCE: torch.Tensor,
    v_cache_BKCE: torch.Tensor,
) -> torch.Tensor:
    """Write the keys and values of the tokens into the cache, and return the output (B, L, N, E) of attention.

    Args:
        qkv_BLJE: The projection of the pass's tokens: J = N + 2 K heads of the queries, then the keys, then the values.
        q_norm_E, k_norm_E: The weights of the norms; None for no norms.
        table: The tables of this pass.
        k_cache_BKCE, v_cache_BKCE: The layer's part of the cache, written in place.
    """
    q_BLNE, q_prefix_BLNE = split_heads(qkv_BLJE, q_norm_E, k_norm_E, table.heads, k_cache_BKCE, v_cache_BKCE)
    (B, _, N, E), K = q_BLNE.shape, k_cache_BKCE.shape[1]
    out_BLNE = torch.zeros_like(q_BLNE)
    for start, stop, blocks in table.tiles:
        if not blocks:
            continue

        # The query heads of a key/value head become the rows of one matrix, so that keys and values are not repeated.
        def rows(q_BLNE: torch.Tensor, start: int = start, stop: int = stop) -> torch.Tensor:
            return q_BLNE[:, start:stop].unflatten(2, (K, -1)).permute(0, 2, 3, 1, 4).reshape(B, K, -1, E)

        q_BKME, q_prefix_BKME = rows(q_BLNE), rows(q_prefix_BLNE)
        scores, highest_BKM1 = [], None
        for first, last, hidden_B11LX in blocks:
            query = q_prefix_BKME if first < table.prefix else q_BKME
            scores_BKMX = product(query, k_cache_BKCE[:, :, first:last].transpose(2, 3)).mul_(E**-0.5)
            if hidden_B11LX is not None:
                scores_BKMX.unflatten(2, (-1, stop - start)).masked_fill_(hidden_B11LX, -torch.inf)
            best_BKM1 = scores_BKMX.amax(-1, keepdim=True)
            highest_BKM1 = best_BKM1 if highest_BKM1 is None else torch.maximum(highest_BKM1, best_BKM1)
            scores.append(scores_BKMX)
        assert highest_BKM1 is not None
        # -inf - -inf is NaN: a query that sees nothing has 0 in place of its highest score.
        highest_BKM1 = highest_BKM1.where(highest_BKM1.isfinite(), 0)
        total_BKM1, out_BKME = torch.zeros_like(highest_BKM1), torch.zeros_like(q_BKME)
        for (first, last, _), scores_BKMX in zip(blocks, scores, strict=True):
            weights_BKMX = scores_BKMX.sub_(highest_BKM1).exp_()
            total_BKM1 += weights_BKMX.sum(-1, keepdim=True)
            out_BKME += product(weights_BKMX, v_cache_BKCE[:, :, first:last])
        out_BKME /= total_BKM1.where(total_BKM1 > 0, 1)
        out_BLNE[:, start:stop] = out_BKME.view(B, N, stop - start, E).transpose(1, 2)
    return out_BLNE
