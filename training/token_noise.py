"""Noise in the tokens that a language model sees in training, so that it goes on from its own mistakes.

    seen_Bthw = with_noise(tokens_Bthw, 0.15, np.random.default_rng([seed, step]))
    loss = cross_entropy(model, tokens_Bthw, *batch, seen_Bthw=seen_Bthw)

    seen_Bthw = with_own_draws(model, tokens_Bthw, *batch, seen_Bthw=seen_Bthw, most=0.3, seeds=[seed, step])

A model that has only seen true clips does not know what follows a wrong token, and one draw in some hundreds is wrong:
played for long, its worlds dissolve. GameNGen (Valevski et al. 2024, arXiv 2408.14837) adds noise to the past frames of
a diffusion model for the same reason. Tokens of other clips are wrong in another way than those that the model draws;
the latter are scheduled sampling, in one pass over true clips (Mihaylova and Martins 2019, arXiv 1906.07651).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch


def with_noise(tokens_Bthw: torch.Tensor, most: float, rng: np.random.Generator) -> torch.Tensor:
    """Return tokens of which a share is replaced by those of any clips.

    Args:
        tokens_Bthw: The video tokens of clips.
        most: The largest share; that of each clip is drawn from 0 to this.
        rng: What the shares, the places and the tokens are drawn with.
    """
    shape, device = tokens_Bthw.shape, tokens_Bthw.device
    shares_B111 = rng.uniform(0, most, (shape[0], 1, 1, 1))
    wrong_Bthw = torch.from_numpy(rng.random(shape) < shares_B111).to(device)
    others_Bthw = torch.from_numpy(rng.integers(tokens_Bthw.numel(), size=shape)).to(device)
    return torch.where(wrong_Bthw, tokens_Bthw.flatten()[others_Bthw], tokens_Bthw)


@torch.no_grad()
def with_own_draws(
    model: Any, tokens_Bthw: torch.Tensor, text_BP: torch.Tensor, lengths_B: torch.Tensor,
    controls: Mapping[str, torch.Tensor], *, seen_Bthw: torch.Tensor, most: float, seeds: Sequence[int], first: int = 0,
) -> torch.Tensor:  # fmt: skip
    """Return tokens of which a share is replaced by those that a model draws in their places, given the true ones.

    Args:
        model: The model as it is now.
        tokens_Bthw, text_BP, lengths_B, controls: Its arguments for the clips.
        seen_Bthw: The tokens of which some are replaced.
        most: The largest share; that of each clip is drawn from 0 to this.
        seeds: What the shares, the places and the tokens are drawn with, together with the number of the clip.
        first: The number of the first clip, so that what is drawn does not depend on how a batch is divided.
    """
    logits_BtSV = model(tokens_Bthw, text_BP, lengths_B, controls).unflatten(1, (tokens_Bthw.shape[1], -1))
    seen = []
    for clip, (logits_tSV, seen_thw) in enumerate(zip(logits_BtSV, seen_Bthw, strict=True), first):
        rng = np.random.default_rng([*seeds, clip])
        generator = torch.Generator(logits_tSV.device).manual_seed(int(rng.integers(2**63)))
        noise_tSV = torch.empty_like(logits_tSV, dtype=torch.float32).exponential_(generator=generator)
        drawn_tS = (logits_tSV.float() - noise_tSV.log_()).argmax(-1)  # exponential noise of the Gumbel trick
        drawn_thw = model.layout.unpack(drawn_tS)["video"]
        replaced_thw = torch.from_numpy(rng.random(seen_thw.shape) < rng.uniform(0, most)).to(seen_thw.device)
        seen.append(torch.where(replaced_thw, drawn_thw, seen_thw))
    return torch.stack(seen)
