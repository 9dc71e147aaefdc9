"""Rotary position embedding: the rotation of heads by the angles of each token.

    q_BSNE = rotate(q_BSNE, rotation)

A rotation is given by the cosines and sines of its angles, which the language model computes (lm/positions.py).
"""

import torch

# The cosines and sines of the angles, each (B, S, 1, E / 2); B may be 1.
Rotation = tuple[torch.Tensor, torch.Tensor]


def rotate(x_BSNE: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Rotate the pairs (x[i], x[i + E / 2]) of every head by the angles of its token."""
    cos, sin = (part.to(x_BSNE.dtype) for part in rotation)
    first, second = x_BSNE.chunk(2, -1)
    rotated = torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)
    return torch.cat(rotated, -1)
