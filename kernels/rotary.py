"""What a rotation is, for the kernels and for the model: the cosines and sines of the angles of each token.

    q_BSNE = rotate(q_BSNE, rotation)

Where the angles come from is not known here.
"""

import torch

# Cosines and sines, each (B, S, 1, E / 2); B may be 1.
Rotation = tuple[torch.Tensor, torch.Tensor]


def rotate(x_BSNE: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Rotate the pairs (x[i], x[i + E / 2]) of every head."""
    cos, sin = (part.to(x_BSNE.dtype) for part in rotation)
    first, second = x_BSNE.chunk(2, -1)
    turned = torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)
    return torch.cat(turned, -1)
