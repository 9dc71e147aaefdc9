"""The neighbouring tokens that are the input of a slot, and their positions.

offsets_SX, inside_SX = neighbour_tables(8, 8, "raster")      # tokens at position + offsets_SX, where inside_SX
"""

import torch
import torch.nn.functional as F

from ..core.layout import FrameLayout
from ..core.token_order import Order, scan_order

# Offsets (dt, dy, dx) of the tokens that are the input of a slot, as far as they are written before its own token: in
# the same latent frame, then in the two latent frames before, then the corners in the latent frame before.
AROUND = ((0, 0, -1), (0, -1, 0), (0, -1, 1), (0, -1, -1), (0, 0, 1), (0, 1, -1), (0, 1, 0), (0, 1, 1))
BEFORE = ((-1, 0, 0), (-1, 0, -1), (-1, 0, 1), (-1, -1, 0), (-1, 1, 0), (-2, 0, 0))
CORNERS = ((-1, -1, -1), (-1, -1, 1), (-1, 1, -1), (-1, 1, 1))


def neighbours(order: Order) -> tuple[tuple[int, int, int] | None, ...]:
    """Return the offset (dt, dy, dx) of each neighbour; None stands for the token that was written just before.

    With it, every token is an input of the next slot, wherever in the latent frame the two are.
    """
    if order == "raster":
        return (None, *AROUND[1:3], *BEFORE)
    return (None, *AROUND, *BEFORE, *CORNERS)


def neighbour_tables(rows: int, columns: int, order: Order, given: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the positions of the neighbours relative to each slot, and whether they are known.

    Args:
        rows: The rows of tokens of a latent frame.
        columns: The columns of tokens of a latent frame.
        order: The order in which they are written.
        given: The number of given tokens before them in a latent frame. No neighbour is one of these, and their own
            slots have none but the token written just before.

    Returns:
        Two tensors (S, X), with S = given + rows * columns slots in writing order and X neighbours.
    """
    raster_V = scan_order(rows, columns, order)
    writing_V = given + raster_V.argsort()  # the slot of each raster index
    y_V, x_V, own_S = raster_V // columns, raster_V % columns, torch.arange(given + len(raster_V))
    offsets, inside = [], []
    for neighbour in neighbours(order):
        if neighbour is None:
            offsets.append(torch.full_like(own_S, -1))
            inside.append(torch.ones_like(own_S, dtype=torch.bool))
            continue
        dt, dy, dx = neighbour
        y, x = y_V + dy, x_V + dx
        in_picture = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
        index = writing_V[torch.where(in_picture, y * columns + x, 0)] + dt * len(own_S)
        known = in_picture & (index < own_S[given:])
        offsets.append(F.pad(torch.where(known, index - own_S[given:], 0), (given, 0)))
        inside.append(F.pad(known, (given, 0)))
    return torch.stack(offsets, 1), torch.stack(inside, 1)


def order_tables(layout: FrameLayout) -> dict[str, torch.Tensor]:
    """Return, by name, the buffers of a model that follow from the order of its tokens."""
    rows, columns = layout.video.shape
    given = layout.frame_size - layout.video.size
    offsets_SX, inside_SX = neighbour_tables(rows, columns, layout.video.order, given)
    return {"raster_S": layout.raster_S, "neighbour_offsets_SX": offsets_SX, "neighbour_inside_SX": inside_SX}


def carry_over(weight_DX: torch.Tensor, old: Order, new: Order) -> torch.Tensor:
    """Convert the weight of `neighbour_mix` to another order: weights of shared neighbours stay, new ones are zero."""
    if old == new:
        return weight_DX.clone()
    dim = weight_DX.shape[1] // len(neighbours(old))
    parts = dict(zip(neighbours(old), weight_DX.split(dim, 1), strict=True))
    # In raster order the token written before is the left neighbour, except at the border; in the other it is anywhere.
    if old == "raster":
        parts[AROUND[0]] = parts.pop(None)
    else:
        parts[None] = parts[AROUND[0]]
    zeros = torch.zeros_like(weight_DX[:, :dim])
    return torch.cat([parts.get(neighbour, zeros) for neighbour in neighbours(new)], 1)
