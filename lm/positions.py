"""Rotary positions along time, rows and columns (after Su et al. 2021, arXiv 2104.09864), and along the prefix.

    rotation = video_rotation(positions_BL, h, w, head_dim)       # (cos, sin), each (B, L, 1, E / 2)
    q_BLNE = rotate(q_BLNE, rotation)

Attention scores depend on differences of positions alone, so that a cached key keeps its rotation however long the clip
becomes. Angles are computed in float64: at latent frame 10,000 float32 would be off by a thousandth.
"""

import functools

import torch

from ..kernels.rotary import Rotation

# The bases of the frequencies: the longest wave of each axis is several times the distances that occur along it.
BASES = {"t": 64.0, "y": 64.0, "x": 64.0, "prefix": 256.0}


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """Return the number of rotated pairs of channels for t, y and x: as even as possible, with the remainder for t."""
    space = head_dim // 2 // 3
    return head_dim // 2 - 2 * space, space, space


@functools.cache
def _frequencies(pairs: int, base: float, device: torch.device) -> torch.Tensor:
    return base ** -(torch.arange(pairs, dtype=torch.float64, device=device) / max(pairs, 1))


def _angles(positions: torch.Tensor, pairs: int, base: float) -> torch.Tensor:
    return positions.double()[..., None] * _frequencies(pairs, base, positions.device)


def _rotation(angles: torch.Tensor) -> Rotation:
    return angles.cos().float().unsqueeze(-2), angles.sin().float().unsqueeze(-2)


def video_rotation(positions_BL: torch.Tensor, h: int, w: int, head_dim: int) -> Rotation:
    """Return the rotations (B, L, 1, E / 2) of int64 positions in raster order over t, h rows and w columns."""
    pairs_t, pairs_y, pairs_x = axis_pairs(head_dim)
    t, y, x = positions_BL // (h * w), positions_BL // w % h, positions_BL % w
    parts = (_angles(t, pairs_t, BASES["t"]), _angles(y, pairs_y, BASES["y"]), _angles(x, pairs_x, BASES["x"]))
    return _rotation(torch.cat(parts, -1))


def prefix_rotation(slots: int, head_dim: int, device: torch.device) -> Rotation:
    """Return the rotations (1, P, 1, E / 2) of the prefix slots 0 .. P - 1."""
    return _rotation(_angles(torch.arange(slots, device=device)[None], head_dim // 2, BASES["prefix"]))
