"""The order in which a language model writes the tokens of a latent frame.

    raster_S = scan_order(rows=8, columns=8, order="coarse")      # the raster place of each token in turn

"raster" goes row by row. "coarse" goes from coarse to fine: first every second token of every second row, these again
from coarse to fine, then those between them diagonally, then those left in even rows, then the other ones. Tokens that
follow each other then lie apart, and say little about each other that is not said by what lies around both, so that
many of them can be drafted and kept at once (docs/decoding.md); in raster order each hangs on the one before. Such
orders are known from pixels (Reed et al. 2017, arXiv 1703.03664) and from image tokens (Zhang et al. 2025, arXiv
2507.01957).
"""

from typing import Literal, get_args

import torch

Order = Literal["raster", "coarse"]
ORDERS = get_args(Order)


def lattices(rows: int, columns: int) -> list[torch.Tensor]:
    """The places of each lattice of a "coarse" order, in raster numbering, in the order in which they are written."""
    raster_hw, found = torch.arange(rows * columns).view(rows, columns), []
    while raster_hw.numel() > 1:
        found += [raster_hw[1::2, ::2], raster_hw[::2, 1::2], raster_hw[1::2, 1::2]]
        raster_hw = raster_hw[::2, ::2]
    return [part.flatten() for part in (raster_hw, *reversed(found)) if part.numel()]


def scan_order(rows: int, columns: int, order: Order) -> torch.Tensor:
    """The places (rows * columns,) in raster numbering, in the order in which they are written."""
    return torch.arange(rows * columns) if order == "raster" else torch.cat(lattices(rows, columns))
