"""`attention` in plain torch: the definition that the Triton kernels are tested against, and the way to train on a CPU.

    out_BSNE, lse_BNS = attention_reference(q_BSNE, k_BSKE, v_BSKE, frame_size=64, window=8, …)

The two queries become one of twice the head_dim, against keys whose other half is zero; then torch's fused attention
does the rest, without a matrix of scores in memory: twice as fast as matmul, softmax, matmul on a CPU. It keeps no
log-sum-exp; where that is wanted, it comes from the scores themselves.
"""

import torch
from torch.nn import functional as F

# Rows are taken in so many parts, and earlier parts skip the keys of later ones; more parts cost more overhead.
PARTS = 3


def attention_reference(
    q_BSNE: torch.Tensor,
    k_BSKE: torch.Tensor,
    v_BSKE: torch.Tensor,
    *,
    prefix: int,
    q_prefix_BSNE: torch.Tensor | None,
    prefix_lengths_B: torch.Tensor | None,
    frame_size: int,
    window: int | None,
    mask: str,
    return_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Arguments as `attention`; returns (out_BSNE, lse_BNS or None)."""
    B, S, N, E = q_BSNE.shape
    if q_BSNE.numel() == 0:
        return q_BSNE.clone(), q_BSNE.to(_wide(q_BSNE)).sum(-1).transpose(1, 2) if return_lse else None
    if prefix_lengths_B is None:
        prefix_lengths_B = torch.full((B,), prefix, device=q_BSNE.device)
    visible_BSS = visible(S, prefix_lengths_B, prefix=prefix, frame_size=frame_size, window=window, mask=mask)
    # Rows that see nothing see everything instead, and are zeroed at the end: no backend of torch makes NaN of that.
    blind_BS = ~visible_BSS.any(-1)
    mask_B1SS = (visible_BSS | blind_BS[:, :, None])[:, None]

    q_BNSF, k_BKSF, v_BKSF = (x.transpose(1, 2) for x in (q_BSNE, k_BSKE, v_BSKE))
    if q_prefix_BSNE is not None and prefix > 0:  # F = 2 E
        q_BNSF = torch.cat([q_prefix_BSNE, q_BSNE], dim=-1).transpose(1, 2)
        k_BKSF = torch.cat([F.pad(k_BSKE[:, :prefix], (0, E)), F.pad(k_BSKE[:, prefix:], (E, 0))], dim=1).transpose(
            1, 2
        )
        v_BKSF = F.pad(v_BSKE, (0, E)).transpose(1, 2)
    reach = {"token": 0, "frame": frame_size, "full": S}[mask]  # how far beyond itself a row may see
    parts, start = [], 0
    for part_BNRF in q_BNSF.split(-(-S // PARTS), dim=2):
        stop = start + part_BNRF.shape[2]
        seen = min(S, stop + reach)
        out_BNRF = F.scaled_dot_product_attention(
            part_BNRF,
            k_BKSF[:, :, :seen],
            v_BKSF[:, :, :seen],
            attn_mask=mask_B1SS[:, :, start:stop, :seen],
            scale=E**-0.5,
            enable_gqa=k_BSKE.shape[2] != N,
        )
        parts.append(out_BNRF[..., :E].transpose(1, 2))
        start = stop
    out_BSNE = torch.cat(parts, dim=1).masked_fill(blind_BS[:, :, None, None], 0.0)
    if not return_lse:
        return out_BSNE, None
    k_BNSF = k_BKSF.repeat_interleave(N // k_BSKE.shape[2], 1)
    scores_BNSS = (q_BNSF.to(_wide(q_BSNE)) * E**-0.5) @ k_BNSF.to(_wide(q_BSNE)).transpose(2, 3)
    lse_BNS = scores_BNSS.masked_fill(~mask_B1SS, -torch.inf).logsumexp(-1)
    return out_BSNE, lse_BNS.masked_fill(blind_BS[:, None], -torch.inf)


def _wide(x: torch.Tensor) -> torch.dtype:
    """What sums are taken in: float32, or float64 for float64."""
    return torch.promote_types(x.dtype, torch.float32)


def visible(
    S: int, prefix_lengths_B: torch.Tensor, *, prefix: int, frame_size: int, window: int | None, mask: str
) -> torch.Tensor:
    """The mask (B, S, S), True where the query of the second axis sees the key of the last one."""
    slots_S = torch.arange(S, device=prefix_lengths_B.device)
    query_S1, key_S = slots_S[:, None], slots_S
    valid_BS = (key_S < prefix_lengths_B[:, None]) & (key_S < prefix)
    if mask == "full":
        return (valid_BS | (key_S >= prefix))[:, None].expand(-1, S, -1)
    # Latent frames of video tokens; those of prefix slots are negative.
    query_frame_S1 = (query_S1 - prefix).div(frame_size, rounding_mode="floor")
    key_frame_S = (key_S - prefix).div(frame_size, rounding_mode="floor")
    before_SS = key_S <= query_S1
    if mask == "frame":
        before_SS = before_SS | ((key_frame_S == query_frame_S1) & (key_S >= prefix) & (query_S1 >= prefix))
    in_window_SS = key_S >= prefix
    if window is not None:
        in_window_SS = in_window_SS & (query_frame_S1 - key_frame_S < window)
    return before_SS & (valid_BS[:, None] | in_window_SS)
