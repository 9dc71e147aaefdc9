"""Diagonal decoding: a wavefront over the tokens of a latent frame, and over latent frames. Approximate.

    decoder = Diagonal(delay=2, frames=1)
    decoder.step(engine)                        # up to `frames` latent frames more for every clip

What lies right above a token says more about it than the far end of the row above, so that a row may begin before the
one above is done; and a latent frame, whose tokens look most at the same place one frame earlier, before that frame is
done (Ye et al. 2025, arXiv 2503.14070). A pass draws a diagonal: h * w tokens take (h - 1) * delay + w passes. A token
does not see what is not drawn yet, though in training it saw all that is before it: this is what the decoder costs in
quality (benchmarks/ has it measured). Where the token written before is among its inputs, a guess may stand for it.

That is for raster order. A model whose order is "coarse" writes lattices whose tokens do not touch
(core/token_order.py): there a pass draws a lattice, or one of the `delay` parts that it is split into.
"""

import functools

import torch

from ..core.errors import require
from ..core.token_order import Order, lattices
from .decoder import EngineView, Exactness, Wave


class Diagonal:
    """Rows and latent frames that follow each other at a distance, all drawn at once; or lattices.

    Args:
        delay: columns by which a row stays behind the row above, or passes that a lattice takes; a whole row, or as
            many as the largest lattice has tokens, make it exact.
        frames: latent frames under way together, 1 or 2; the second starts when half the passes of the first are done.
            With 2, which ones go together depends on where a clip begins and on the clips beside it, and so do tokens.
            Lattices cover the whole picture, of which the next latent frame sees most: there, one after the other.
    """

    name = "diagonal"
    exactness: Exactness = "approximate"

    def __init__(self, delay: int = 2, frames: int = 1) -> None:
        require(type(delay) is int and delay >= 1, "delay", "must be a whole number of at least 1", delay)
        require(frames in (1, 2), "frames", "must be 1 or 2", frames)
        self.delay, self.frames = delay, frames

    def step(self, engine: EngineView) -> None:
        """Whole latent frames for every clip that may have some: as many as all of these may have."""
        (rows, columns), order, limits = engine.layout.video.shape, engine.layout.video.order, engine.limits
        size = rows * columns
        frames = min(self.frames if order == "raster" else 1, *(limit // size for limit in limits if limit))
        tokens_BA = engine.drafts(frames * size)
        for wave in waves(rows, columns, frames, self.delay, order):
            tokens_BL = engine.draw(engine.logits(frames * size, wave), wave)
            engine.put(tokens_BL, wave)
            tokens_BA[:, wave.offsets] = tokens_BL
        engine.accept(tokens_BA, [min(frames * size, limit) for limit in limits])


@functools.lru_cache(maxsize=8)
def waves(rows: int, columns: int, frames: int, delay: int, order: Order = "raster") -> tuple[Wave, ...]:
    """The passes over `frames` latent frames, each with what its tokens see: what is drawn and written before them."""
    assert order == "raster" or frames == 1, "lattices of one latent frame after the other"
    turn_A = _diagonals(rows, columns, frames, delay) if order == "raster" else _by_lattice(rows, columns, delay)
    place_A, found = torch.arange(len(turn_A)), []
    for turn in turn_A.unique().tolist():  # of few tokens, one frame is done before the next one may begin
        offsets_L = (turn_A == turn).nonzero()[:, 0]
        sees_LA = (turn_A <= turn) & (place_A <= offsets_L[:, None])
        found.append(Wave(tuple(offsets_L.tolist()), sees_LA))
    return tuple(found)


def _diagonals(rows: int, columns: int, frames: int, delay: int) -> torch.Tensor:
    """When each token is drawn (frames * rows * columns,)."""
    delay = min(delay, columns)
    passes = (rows - 1) * delay + columns
    # Not before what lies below the same place one frame earlier is drawn, which is among a token's neighbours.
    lag = max(-(-passes // 2), delay + 1)
    place_A = torch.arange(frames * rows * columns)
    frame_A, y_A, x_A = place_A // (rows * columns), place_A // columns % rows, place_A % columns
    return frame_A * lag + y_A * delay + x_A


def _by_lattice(rows: int, columns: int, delay: int) -> torch.Tensor:
    """When each token of one latent frame is drawn; every so many of a lattice go together, so that they lie apart."""
    turns, first = [], 0
    for lattice in lattices(rows, columns):
        passes = min(delay, len(lattice))
        turns.append(first + torch.arange(len(lattice)) % passes)
        first += passes
    return torch.cat(turns)
