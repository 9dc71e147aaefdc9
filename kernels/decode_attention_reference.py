"""`decode_attention` in plain torch: what the Triton kernel is tested against, and the way to sample on a CPU.

    out_BLNE = decode_attention_reference(
        q_BLNE, q_prefix_BLNE, k_cache_BKCE, v_cache_BKCE, positions_B, prefix_lengths_B,
        prefix=32, frame_size=64, window=8,
    )

For one token it is a few small operations: the mask by arithmetic on slots, two products, a softmax, a product.
"""

import torch


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
) -> torch.Tensor:
    """Arguments and result as `decode_attention`."""
    B, L, N, E = q_BLNE.shape
    K, C = k_cache_BKCE.shape[1:3]
    visible_BLC = visible_slots(
        L, C, positions_B, prefix_lengths_B, prefix=prefix, frame_size=frame_size, window=window
    )

    # The query heads of a key/value head go into the rows of one matrix: no key or value is repeated.
    def rows(q_BLNE: torch.Tensor) -> torch.Tensor:
        return (q_BLNE * E**-0.5).view(B, L, K, N // K, E).permute(0, 2, 3, 1, 4).reshape(B, K, N // K * L, E)

    k_BKEC = k_cache_BKCE.transpose(2, 3)
    scores_BKMC = torch.cat([rows(q_prefix_BLNE) @ k_BKEC[..., :prefix], rows(q_BLNE) @ k_BKEC[..., prefix:]], dim=-1)
    scores_BKGLC = scores_BKMC.view(B, K, N // K, L, C)
    weights_BKGLC = scores_BKGLC.masked_fill(~visible_BLC[:, None, None], float("-inf")).softmax(-1)
    v_seen_BKCE = zero_unless(visible_BLC.any(1)[:, None, :, None], v_cache_BKCE)
    out_BKME = weights_BKGLC.view(B, K, N // K * L, C) @ v_seen_BKCE
    return out_BKME.view(B, N, L, E).transpose(1, 2)


def zero_unless(keep: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """`values` with zeros where `keep` is False: a slot that nobody sees may hold NaN, and 0 * NaN is NaN.

    On the bits, since `where` and `masked_fill` under a broadcast mask take longer than the attention itself on a CPU.
    """
    integer = {8: torch.int64, 4: torch.int32, 2: torch.int16}[values.element_size()]
    return (values.view(integer) & -keep.to(integer)).view(values.dtype)


def visible_slots(
    L: int,
    C: int,
    positions_B: torch.Tensor,
    prefix_lengths_B: torch.Tensor,
    *,
    prefix: int,
    frame_size: int,
    window: int,
) -> torch.Tensor:
    """The mask (B, L, C), True where the query at `positions_B` + l sees the cache slot."""
    slots_C = torch.arange(C, device=positions_B.device)
    query_BL1 = (positions_B[:, None] + slots_C[:L])[:, :, None]
    # A token at offset r of its latent frame reaches r tokens back and window - 1 frames more, if there are as many.
    reach_BL1 = torch.minimum(query_BL1, query_BL1 % frame_size + (window - 1) * frame_size)
    # Slots of tokens after the query are ring - 1, ring - 2, … behind it: out of its reach, the ring being long enough.
    behind_BLR = (query_BL1 - slots_C[: C - prefix]) % (C - prefix)
    in_window_BLR = behind_BLR <= reach_BL1
    valid_BLP = (slots_C[:prefix] < prefix_lengths_B[:, None])[:, None].expand(-1, L, -1)
    return torch.cat([valid_BLP, in_window_BLR], dim=-1)
