"""Noise in the tokens that a language model sees in training, so that it goes on from its own mistakes.

    seen_Bthw = with_noise(tokens_Bthw, 0.15, np.random.default_rng([seed, step]))
    loss = cross_entropy(model, tokens_Bthw, *batch, seen_Bthw=seen_Bthw)

A model that has only seen true clips does not know what follows a wrong token, and one draw in some hundreds is wrong:
played for long, its worlds dissolve. GameNGen (Valevski et al. 2024, arXiv 2408.14837) adds noise to the past frames of
a diffusion model for the same reason.
"""

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
