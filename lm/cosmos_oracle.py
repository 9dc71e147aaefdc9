"""Attention of Cosmos-Predict1's models over whole clips, in plain torch: what a cache must be equal to.

out_BSNE = masked_attention(config, attention, qkv_BSJE, positions_1S)
"""

import torch

from ..kernels.rotary import rotate
from .blocks import Attention
from .cosmos_lm_config import CosmosLMConfig
from .cosmos_positions import cosmos_rotation


def masked_attention(
    config: CosmosLMConfig, attention: Attention, qkv_BSJE: torch.Tensor, positions_1S: torch.Tensor
) -> torch.Tensor:
    """Return the output (B, S, N, E) of attention, in which each token sees itself and others before it.

    Of the positions -1, 0, 1, … a token sees those of its own latent frame and of the `window - 1` before it. A model
    that rolls also sees the first latent frame from everywhere, by a query that is rotated as if it were in the last
    latent frame of training; and nobody sees its position -1, where nothing is.

    Args:
        config: The sizes of the model.
        attention: The attention of a block.
        qkv_BSJE: Its heads of queries, keys and values.
        positions_1S: The positions -1, 0, 1, ….
    """
    q, q_plain, k, v = attention.rotated(qkv_BSJE, cosmos_rotation(config, positions_1S))
    q_first = rotate(q_plain, cosmos_rotation(config, positions_1S, last_frame=config.frames - 1))
    groups = config.heads // config.kv_heads
    k_BNSE, v_BNSE = (x.transpose(1, 2).repeat_interleave(groups, 1) for x in (k, v))
    scores, scores_first = (x.transpose(1, 2) @ k_BNSE.mT * config.head_dim**-0.5 for x in (q, q_first))
    position_S = positions_1S[0]
    frame_S, query_S1 = position_S // config.frame_size, position_S[:, None]
    past_SS = position_S <= query_S1
    if not config.rolls:
        return (scores.masked_fill(~past_SS, -torch.inf).softmax(-1) @ v_BNSE).transpose(1, 2)
    behind_SS = query_S1 // config.frame_size - frame_S
    first_SS = (frame_S == 0) & (behind_SS >= config.window)
    seen_SS = past_SS & (position_S >= 0) & ((behind_SS < config.window) | first_SS)
    scores = torch.where(first_SS, scores_first, scores).masked_fill(~seen_SS, -torch.inf)
    return (scores.softmax(-1).nan_to_num() @ v_BNSE).transpose(1, 2)
