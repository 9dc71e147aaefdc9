"""`decode_attention` in plain torch: the reference for tests of the Triton kernel, and the implementation for CPUs.

    out_BLNE = decode_attention_reference(
        q_BLNE, q_prefix_BLNE, k_cache_BKCE, v_cache_BKCE, positions_B, prefix_lengths_B,
        prefix=32, frame_size=64, window=8,
    )

One token takes a few small operations: the mask by arithmetic on slots, two products, a softmax and a product.
"""

# ruff: noqa: PLR0913 (an op with options)

import math

import torch
from torch.nn import functional as F


def decode_attention_reference(
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
) -> torch.Tensor:
    """Compute `decode_attention`, with the same arguments and result."""
    L, C = q_BLNE.shape[1], k_cache_BKCE.shape[2]
    if mask_BLC is None:
        mask_BLC = slot_mask(
            L, C, positions_B, prefix_lengths_B, prefix=prefix, frame_size=frame_size, window=window,
            prefix_from=prefix_from, ancestors_BLA=ancestors_BLA, query_positions_BL=query_positions_BL,
        )  # fmt: skip
    keys, values = [k_cache_BKCE, k_scales_BKC], [v_cache_BKCE, v_scales_BKC]
    # A slot that no query sees may contain NaN, and 0 * NaN is NaN. This is rare, and testing for it takes less time on
    # a CPU than clearing such slots.
    if q_BLNE.device.type == "cpu" and not torch.compiler.is_compiling():
        out_BLNE = _attend(q_BLNE, q_prefix_BLNE, keys, values, mask_BLC, prefix)
        if math.isfinite(out_BLNE.sum().item()):
            return out_BLNE
    visible_BLC = mask_BLC == 0
    seen_B1C = visible_BLC.any(1)[:, None]
    for pair in (keys, values):
        pair[:] = [None if x is None else zero_unless(seen_B1C[(...,) + (None,) * (x.ndim - 3)], x) for x in pair]
    out_BLNE = _attend(q_BLNE, q_prefix_BLNE, keys, values, mask_BLC, prefix)
    # A query that sees nothing has a softmax of NaN.
    return out_BLNE.masked_fill(~visible_BLC.any(-1)[:, :, None, None], 0.0)


def _attend(
    q_BLNE: torch.Tensor,
    q_prefix_BLNE: torch.Tensor,
    keys: list[torch.Tensor | None],
    values: list[torch.Tensor | None],
    mask_BLC: torch.Tensor,
    prefix: int,
) -> torch.Tensor:
    """Compute attention; `keys` and `values` are pairs of the cache (B, K, C, E) and its scales (B, K, C) or None."""
    (k_BKCE, k_scales_BKC), (v_BKCE, v_scales_BKC) = keys, values
    assert k_BKCE is not None and v_BKCE is not None
    B, L, N, E = q_BLNE.shape
    K, C = k_BKCE.shape[1:3]
    # The products with an int8 cache are computed in float32, which represents the integers and scales exactly.
    dtype = q_BLNE.dtype if k_scales_BKC is None else torch.promote_types(q_BLNE.dtype, torch.float32)

    # The query heads of a key/value head become the rows of one matrix, so that keys and values are not repeated.
    def rows(q_BLNE: torch.Tensor) -> torch.Tensor:
        q_BLKGE = q_BLNE.to(dtype).view(B, L, K, N // K, E)
        return q_BLKGE.permute(0, 2, 3, 1, 4).reshape(B, K, N // K * L, E)

    k_BKEC = k_BKCE.to(dtype).transpose(2, 3)
    parts = product(rows(q_prefix_BLNE), k_BKEC[..., :prefix]), product(rows(q_BLNE), k_BKEC[..., prefix:])
    scores_BKMC = torch.cat(parts, dim=-1)
    if k_scales_BKC is not None:
        scores_BKMC = scores_BKMC * k_scales_BKC[:, :, None]
    mask_B11LC = mask_BLC.to(dtype)[:, None, None]
    scores_BKGLC = torch.add(mask_B11LC, scores_BKMC.view(B, K, N // K, L, C), alpha=E**-0.5)
    weights_BKMC = scores_BKGLC.softmax(-1).view(B, K, N // K * L, C)
    if v_scales_BKC is not None:
        weights_BKMC = weights_BKMC * v_scales_BKC[:, :, None]
    out_BKME = product(weights_BKMC, v_BKCE.to(dtype))
    return out_BKME.reshape(B, N, L, E).transpose(1, 2).to(q_BLNE.dtype)


def product(a_BKMX: torch.Tensor, b_BKXY: torch.Tensor) -> torch.Tensor:
    """Return a @ b such that a row's bits do not depend on the number of other rows.

    On a CPU torch's product has other bits for fewer than four rows, and for fewer than sixteen where the rows are long
    and b is a transposed matrix, so these are padded.
    """
    M, X = a_BKMX.shape[2:]
    least = 16 if X > 64 and b_BKXY.stride(3) != 1 else 4
    if least <= M or a_BKMX.device.type != "cpu":
        return a_BKMX @ b_BKXY
    return (F.pad(a_BKMX, (0, 0, 0, least - M)) @ b_BKXY)[:, :, :M]


def zero_unless(keep: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return `values` with zeros where `keep` is False, NaN included.

    It masks the bits, since on a CPU `where` and `masked_fill` with a broadcast mask take longer than the attention.
    """
    integer = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[values.element_size()]
    return (values.view(integer) & -keep.to(integer)).view(values.dtype)


def slot_mask(
    L: int,
    C: int,
    positions_B: torch.Tensor,
    prefix_lengths_B: torch.Tensor,
    *,
    prefix: int,
    frame_size: int,
    window: int,
    prefix_from: int = 0,
    ancestors_BLA: torch.Tensor | None = None,
    query_positions_BL: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `visible_slots`, with the same arguments, as a mask (B, L, C) float32: 0 if visible, else -inf."""
    visible_BLC = visible_slots(
        L, C, positions_B, prefix_lengths_B, prefix=prefix, frame_size=frame_size, window=window,
        prefix_from=prefix_from, ancestors_BLA=ancestors_BLA, query_positions_BL=query_positions_BL,
    )  # fmt: skip
    return as_mask(visible_BLC)


def as_mask(visible_BLC: torch.Tensor) -> torch.Tensor:
    """Return a mask (B, L, C) float32 to add to scores: 0 where a slot is visible, else -inf."""
    return torch.zeros((), device=visible_BLC.device).where(visible_BLC, float("-inf"))


def visible_slots(
    L: int,
    C: int,
    positions_B: torch.Tensor,
    prefix_lengths_B: torch.Tensor,
    *,
    prefix: int,
    frame_size: int,
    window: int,
    prefix_from: int = 0,
    ancestors_BLA: torch.Tensor | None = None,
    query_positions_BL: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mask (B, L, C): whether query l sees a slot of the cache.

    Args:
        L: The number of queries.
        C: The number of slots of the cache.
        positions_B, prefix_lengths_B, prefix, frame_size, window, prefix_from, ancestors_BLA, query_positions_BL: The
            same as for `decode_attention`.
    """
    slots_C = torch.arange(C, device=positions_B.device)
    newer, ring = L if ancestors_BLA is None else ancestors_BLA.shape[2], C - prefix
    last_B1 = positions_B[:, None] + (newer - 1)
    # The distance of a slot's position from the last newer position: the newer slots are nearest, then the past ones.
    behind_BQ = (last_B1 - slots_C[:ring]) % ring
    query_BL = positions_B[:, None] + slots_C[:L]
    if query_positions_BL is not None:
        query_BL = torch.maximum(query_positions_BL, positions_B[:, None])
    reach_BL = torch.minimum(last_B1, last_B1 - (query_BL // frame_size - (window - 1)) * frame_size)
    in_window_BLQ = behind_BQ[:, None] <= reach_BL[:, :, None]
    if ancestors_BLA is not None:
        ancestors_BLA = ancestors_BLA.flip(2).expand(len(positions_B), -1, -1)
        ancestors_BLQ = ancestors_BLA.gather(2, behind_BQ.clamp(max=newer - 1)[:, None].expand(-1, L, -1))
        is_newer_BQ = (behind_BQ < newer) & (behind_BQ <= last_B1)
        in_window_BLQ = torch.where(is_newer_BQ[:, None], ancestors_BLQ, in_window_BLQ)
    elif L > 1:
        in_window_BLQ &= behind_BQ[:, None] >= (L - 1) - slots_C[:L, None]
    valid_BLP = (slots_C[:prefix] < prefix_lengths_B[:, None])[:, None].expand(-1, L, -1)
    if prefix_from > 0:
        valid_BLP = valid_BLP & (query_BL >= prefix_from * frame_size)[:, :, None]
    return torch.cat([valid_BLP, in_window_BLQ], dim=-1)
