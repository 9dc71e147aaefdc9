"""Which known tokens make a slot's input, and where they lie.

offsets_O, inside_SO = neighbour_tables(rows=8, columns=8)      # tokens at position + offsets_O, where inside
"""

import torch

# (dt, dy, dx) of the known tokens that make a slot's input. The first is the one before in raster order, whatever its
# row: no token may wait to be seen.
NEIGHBOURS = (
    (0, 0, -1),
    (0, -1, 0),
    (0, -1, 1),
    (-1, 0, 0),
    (-1, 0, -1),
    (-1, 0, 1),
    (-1, -1, 0),
    (-1, 1, 0),
    (-2, 0, 0),
)


def neighbour_tables(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The neighbours' positions relative to a slot's (O,), and whether they are in the picture (rows * columns, O)."""
    dt, dy, dx = torch.tensor(NEIGHBOURS).unbind(1)
    place_S1 = torch.arange(rows * columns)[:, None]
    y_SO, x_SO = place_S1 // columns + dy, place_S1 % columns + dx
    inside_SO = (y_SO >= 0) & (y_SO < rows) & (x_SO >= 0) & (x_SO < columns)
    inside_SO[:, 0] = True  # the token before, whatever its row
    return (dt * rows + dy) * columns + dx, inside_SO
