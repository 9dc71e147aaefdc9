"""`attention` in plain torch: the definition that the Triton kernel is tested against, and the way to train on a CPU.

    out_BSNE = attention_reference(
        q_BSNE, q_prefix_BSNE, k_BSKE, v_BSKE, prefix_lengths_B, prefix=32, frame_size=64, window=8
    )

The two queries become one of twice the head_dim, against keys whose other half is zero; then torch's fused attention
does the rest, without a matrix of scores in memory: twice as fast as matmul, softmax, matmul on a CPU.
"""

import torch
from torch.nn import functional as F

# Rows are taken in so many parts, and earlier parts skip the keys of later ones; more parts cost more overhead.
PARTS = 3


def attention_reference(
    q_BSNE: torch.Tensor,
    q_prefix_BSNE: torch.Tensor,
    k_BSKE: torch.Tensor,
    v_BSKE: torch.Tensor,
    prefix_lengths_B: torch.Tensor,
    *,
    prefix: int,
    frame_size: int,
    window: int,
) -> torch.Tensor:
    """Arguments and result as `attention`."""
    _, S, N, E = q_BSNE.shape
    if q_BSNE.numel() == 0:
        return torch.zeros_like(q_BSNE)
    visible_BSS = visible(S, prefix_lengths_B, prefix=prefix, frame_size=frame_size, window=window)
    # Rows that see nothing see everything instead, and are zeroed at the end: no backend of torch makes NaN of that.
    blind_BS = ~visible_BSS.any(-1)
    mask_B1SS = (visible_BSS | blind_BS[:, :, None])[:, None]

    q_BNSF = torch.cat([q_prefix_BSNE, q_BSNE], dim=-1).transpose(1, 2)  # F = 2 E
    k_BKSF = torch.cat([F.pad(k_BSKE[:, :prefix], (0, E)), F.pad(k_BSKE[:, prefix:], (E, 0))], dim=1).transpose(1, 2)
    v_BKSF = F.pad(v_BSKE, (0, E)).transpose(1, 2)
    parts, start = [], 0
    for part_BNRF in q_BNSF.split(-(-S // PARTS), dim=2):
        stop = start + part_BNRF.shape[2]
        out_BNRF = F.scaled_dot_product_attention(
            part_BNRF,
            k_BKSF[:, :, :stop],
            v_BKSF[:, :, :stop],
            attn_mask=mask_B1SS[:, :, start:stop, :stop],
            scale=E**-0.5,
            enable_gqa=k_BSKE.shape[2] != N,
        )
        parts.append(out_BNRF[..., :E].transpose(1, 2))
        start = stop
    return torch.cat(parts, dim=1).masked_fill(blind_BS[:, :, None, None], 0.0)


def visible(S: int, prefix_lengths_B: torch.Tensor, *, prefix: int, frame_size: int, window: int) -> torch.Tensor:
    """The mask (B, S, S), True where the query of the second axis sees the key of the last one."""
    slots_S = torch.arange(S, device=prefix_lengths_B.device)
    query_S1, key_S = slots_S[:, None], slots_S
    valid_BS = (key_S < prefix_lengths_B[:, None]) & (key_S < prefix)
    # A token at offset r of its latent frame reaches r tokens back, and window - 1 whole frames more.
    reach_S1 = (query_S1 - prefix) % frame_size + (window - 1) * frame_size
    in_window_SS = (key_S >= prefix) & (query_S1 - key_S <= reach_S1)
    return (key_S <= query_S1) & (valid_BS[:, None] | in_window_SS)
