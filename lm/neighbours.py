"""Which known tokens make a slot's input, and where they lie.

offsets_SX, inside_SX = neighbour_tables(8, 8, "raster")      # tokens at position + offsets_SX, where inside
"""

import torch

from ..core.token_order import Order, scan_order

# (dt, dy, dx) of the tokens around a slot that make its input, as far as they are known when its own is written: of the
# latent frame under way, then of the one before, and of the one before that.
AROUND = ((0, 0, -1), (0, -1, 0), (0, -1, 1), (0, -1, -1), (0, 0, 1), (0, 1, -1), (0, 1, 0), (0, 1, 1))
BEFORE = ((-1, 0, 0), (-1, 0, -1), (-1, 0, 1), (-1, -1, 0), (-1, 1, 0), (-2, 0, 0))
CORNERS = ((-1, -1, -1), (-1, -1, 1), (-1, 1, -1), (-1, 1, 1))


def neighbours(order: Order) -> tuple[tuple[int, int, int] | None, ...]:
    """(dt, dy, dx) of each neighbour; None is the token that was written before, wherever it lies: no token may wait to
    be seen."""
    if order == "raster":
        return (None, *AROUND[1:3], *BEFORE)
    return (None, *AROUND, *BEFORE, *CORNERS)


def neighbour_tables(rows: int, columns: int, order: Order) -> tuple[torch.Tensor, torch.Tensor]:
    """The neighbours' positions relative to a slot's, and whether they are known, each (rows * columns, O)."""
    raster_S = scan_order(rows, columns, order)
    turn_S = raster_S.argsort()  # of each place
    y_S, x_S, now_S = raster_S // columns, raster_S % columns, torch.arange(len(raster_S))
    offsets, inside = [], []
    for neighbour in neighbours(order):
        if neighbour is None:
            offsets.append(torch.full_like(now_S, -1))
            inside.append(torch.ones_like(now_S, dtype=torch.bool))
            continue
        dt, dy, dx = neighbour
        y, x = y_S + dy, x_S + dx
        in_picture = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
        turn = turn_S[torch.where(in_picture, y * columns + x, 0)] + dt * len(raster_S)
        known = in_picture & (turn < now_S)
        offsets.append(torch.where(known, turn - now_S, 0))
        inside.append(known)
    return torch.stack(offsets, 1), torch.stack(inside, 1)


def carry_over(weight_DX: torch.Tensor, old: Order, new: Order) -> torch.Tensor:
    """The `neighbour_mix` weight of another order: neighbours go on to mean what they meant, new ones mean nothing."""
    if old == new:
        return weight_DX.clone()
    dim = weight_DX.shape[1] // len(neighbours(old))
    parts = dict(zip(neighbours(old), weight_DX.split(dim, 1), strict=True))
    # In raster order the token before is the one to the left, but at the border; in the other it lies anywhere.
    if old == "raster":
        parts[AROUND[0]] = parts.pop(None)
    else:
        parts[None] = parts[AROUND[0]]
    nothing = torch.zeros_like(weight_DX[:, :dim])
    return torch.cat([parts.get(neighbour, nothing) for neighbour in neighbours(new)], 1)
