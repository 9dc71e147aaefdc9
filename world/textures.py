"""The textures of the renderer: a seamless tile for each background, and a distance field for each shape.

Both are computed once by formulas on a fine grid, and sampled by the renderer with bilinear interpolation.
"""

import functools
import math

import torch
import torch.nn.functional as F

from .scene import BACKGROUNDS, COLOURS, SHAPES

TILE = 32  # pixels, in a picture of 64 pixels, after which a background repeats
TEXELS = 64  # texels along a side of a tile
FIELD_REACH = 1.6  # a distance field spans [-FIELD_REACH, FIELD_REACH] radii
FIELD_SIZE = 96  # samples along a side of a distance field
COLOUR_RGB = {
    "red": (226, 46, 46),
    "green": (40, 206, 84),
    "blue": (48, 92, 240),
    "yellow": (250, 222, 48),
    "purple": (152, 60, 208),
    "orange": (250, 132, 28),
    "cyan": (48, 214, 226),
    "white": (252, 252, 252),
}
SHADE = 0.72  # brightness of an object's shaded half, relative to its colour; it makes the spin of a ball visible
SKY_TOP, SKY_BOTTOM = (62, 46, 92), (186, 112, 106)  # the evening sky is a vertical gradient between these

Ellipse = tuple[float, float, float, float]


def _mix(base: tuple[int, int, int], other: tuple[int, int, int], share_hw: torch.Tensor) -> torch.Tensor:
    low = torch.tensor(base, dtype=torch.float32)[:, None, None]
    high = torch.tensor(other, dtype=torch.float32)[:, None, None]
    return low + (high - low) * share_hw.clamp(0, 1)


def _ellipses(u: torch.Tensor, v: torch.Tensor, ellipses: tuple[Ellipse, ...]) -> torch.Tensor:
    """Return how much each texel of the seamless tile, in [0, 1], is covered by soft ellipses (x, y, radii x and y)."""
    share = torch.zeros_like(u)
    for x, y, radius_x, radius_y in ellipses:
        du = (u - x + TILE / 2) % TILE - TILE / 2
        dv = (v - y + TILE / 2) % TILE - TILE / 2
        distance = torch.sqrt((du / radius_x) ** 2 + (dv / radius_y) ** 2)
        share = torch.maximum(share, (1.6 - distance).clamp(0, 1))
    return share


def _tile(name: str, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    wave = 2 * math.pi / TILE
    if name == "night":
        stars = _ellipses(u, v, ((6, 7, 1.5, 1.5), (23, 14, 1.1, 1.1), (12, 25, 1.3, 1.3)))
        return _mix((20, 24, 56), (160, 158, 150), stars)
    if name == "grass":
        tufts = _ellipses(
            u, v, ((4, 5, 0.9, 3.2), (7, 6, 0.9, 2.4), (20, 13, 0.9, 3.2), (23, 14, 0.9, 2.4), (11, 24, 0.9, 3.0))
        )
        return _mix((84, 132, 66), (60, 106, 50), tufts)
    if name == "sand":
        ripples = 0.5 + 0.5 * torch.sin(wave * (u + 2 * v) + 0.9 * torch.sin(wave * u))
        return _mix((182, 154, 110), (204, 178, 132), ripples)
    if name == "snow":
        hollows = _ellipses(u, v, ((8, 7, 4.0, 2.0), (24, 15, 5.0, 2.2), (12, 26, 3.4, 1.8)))
        return _mix((196, 208, 226), (168, 186, 214), hollows)
    if name == "sunset":  # the light of the clouds, which the renderer adds to the sky
        return _mix((0, 0, 0), (52, 34, 24), _ellipses(u, v, ((9, 8, 5.5, 1.8), (25, 20, 6.0, 2.0))))
    square = torch.sin(wave * u) * torch.sin(wave * v)
    return _mix((98, 102, 114), (132, 136, 148), 0.5 + square * 6)


@functools.cache
def background_tiles() -> torch.Tensor:
    """Return the seamless tiles of all backgrounds, (6, 3, TEXELS + 1, TEXELS + 1) in [0, 255].

    The first row and column are repeated at the end.
    """
    fine = 4 * TEXELS
    line = (torch.arange(fine) + 0.5) * TILE / fine
    v, u = torch.meshgrid(line, line, indexing="ij")
    tiles = torch.stack([_tile(name, u, v) for name in BACKGROUNDS])
    return F.pad(F.avg_pool2d(tiles, 4), (0, 1, 0, 1), mode="circular")


def _polygon(x: torch.Tensor, y: torch.Tensor, corners: list[tuple[float, float]]) -> torch.Tensor:
    """Return the signed distance to a polygon, negative inside (Inigo Quilez, "2D distance functions")."""
    distance = torch.full_like(x, math.inf)
    sign = torch.ones_like(x)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey, wx, wy = bx - ax, by - ay, x - ax, y - ay
        along = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        distance = torch.minimum(distance, (wx - ex * along) ** 2 + (wy - ey * along) ** 2)
        above, below, left = y >= ay, y < by, ex * wy > ey * wx
        crossing = (above & below & left) | (~above & ~below & ~left)
        sign = torch.where(crossing, -sign, sign)
    return sign * distance.sqrt()


def _field(shape: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    radius = torch.sqrt(x * x + y * y)
    if shape == "ball":
        return radius - 1.0
    if shape == "ring":
        return (radius - 0.78).abs() - 0.24
    if shape == "square":
        return _polygon(x, y, [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)])
    if shape == "triangle":
        return _polygon(x, y, [(0.0, -1.2), (1.1, 0.85), (-1.1, 0.85)])
    if shape == "star":
        angles = [math.pi * k / 5 for k in range(10)]
        radii = [1.22 if k % 2 == 0 else 0.5 for k in range(10)]
        return _polygon(x, y, [(r * math.sin(a), -r * math.cos(a)) for r, a in zip(radii, angles, strict=True)])
    arm, half = 1.08, 0.36  # the length of a cross's arm, and half of its width
    return _polygon(
        x, y,
        [(-half, -arm), (half, -arm), (half, -half), (arm, -half), (arm, half), (half, half),
         (half, arm), (-half, arm), (-half, half), (-arm, half), (-arm, -half), (-half, -half)],
    )  # fmt: skip


@functools.cache
def shape_fields() -> torch.Tensor:
    """Return the signed distance to the border of each shape, (6, 1, FIELD_SIZE, FIELD_SIZE), in radii.

    It is negative inside.
    """
    line = ((torch.arange(FIELD_SIZE) + 0.5) / FIELD_SIZE * 2 - 1) * FIELD_REACH
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([_field(shape, x, y) for shape in SHAPES])[:, None]


@functools.cache
def object_colours() -> torch.Tensor:
    """Return the RGB colours of objects, (8, 3) in [0, 255]."""
    return torch.tensor([COLOUR_RGB[colour] for colour in COLOURS], dtype=torch.float32)
