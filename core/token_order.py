"""The order in which a language model writes the tokens of a latent frame.

    raster_S = scan_order(rows=8, columns=8, order="coarse")      # the raster index of each token in writing order

"raster" goes row by row. "coarse" goes from coarse to fine: first every second token of every second row, these again
from coarse to fine, then the tokens diagonally between them, then the remaining ones of even rows, then the remaining
ones of odd rows. Successive tokens of this order are not neighbours in the grid, and are nearly independent given the
tokens around them, so that many of them can be drafted and accepted in one pass (docs/decoding.md); in raster order
each token depends strongly on the one before. Such orders are known from pixels (Reed et al. 2017, arXiv 1703.03664)
and from image tokens (Zhang et al. 2025, arXiv 2507.01957).
"""

from typing import Literal, get_args

import torch

Order = Literal["raster", "coarse"]
ORDERS = get_args(Order)


def lattices(rows: int, columns: int) -> list[torch.Tensor]:
    """Return the raster indices of each lattice of a "coarse" order, in writing order.

    A lattice is a set of tokens at equal distances, none of which are neighbours.
    """
    raster_hw, finer = torch.arange(rows * columns).view(rows, columns), []
    while raster_hw.numel() > 1:
        finer += [raster_hw[1::2, ::2], raster_hw[::2, 1::2], raster_hw[1::2, 1::2]]
        raster_hw = raster_hw[::2, ::2]
    return [part.flatten() for part in (raster_hw, *reversed(finer)) if part.numel()]


def scan_order(rows: int, columns: int, order: Order) -> torch.Tensor:
    """Return the raster indices (rows * columns,) of the tokens of a grid, in writing order."""
    return torch.arange(rows * columns) if order == "raster" else torch.cat(lattices(rows, columns))
