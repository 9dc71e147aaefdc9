"""Diagonal decoding: a wavefront over the tokens of a latent frame, and over latent frames. It is approximate.

    decoder = Diagonal(delay=2, frames=1)
    decoder.step(engine)                        # up to `frames` more latent frames for every clip

The token right above a token says more about it than the far end of the row above, so that a row can begin before the
row above is complete; and a latent frame, whose tokens attend most to the same position one frame earlier, can begin
before that frame is complete (Ye et al. 2025, arXiv 2503.14070). A pass draws a diagonal: h * w tokens take
(h - 1) * delay + w passes. A token does not see tokens that are not drawn yet, although in training it saw all tokens
before it: this is the decoder's loss of quality (measured in benchmarks/). Where the token written just before is among
its inputs, a draft may stand for it.

This holds for raster order. A model with the order "coarse" writes lattices whose tokens do not touch
(core/token_order.py): there a pass draws a lattice, or one of the `delay` parts into which it is split.
"""

import functools

import torch

from ..core.errors import require
from ..core.token_order import Order, lattices
from .decoder import EngineView, Exactness, Wave


class Diagonal:
    """A decoder that draws rows and latent frames together, each some passes behind the one before; or lattices.

    Args:
        delay: The number of columns by which a row stays behind the row above, or of passes that a lattice takes; a
            whole row, or as many as the largest lattice has tokens, make the decoder exact.
        frames: The number of latent frames that are drawn together, 1 or 2; the second starts when half the passes of
            the first are done. With 2, it depends on where a clip begins and on the other clips of the batch which
            frames go together, and so do the tokens. Lattices cover the whole picture, to which the next latent frame
            attends most: with these, latent frames are always drawn one after the other.
    """

    name = "diagonal"
    exactness: Exactness = "approximate"

    def __init__(self, delay: int = 2, frames: int = 1) -> None:
        require(type(delay) is int and delay >= 1, "delay", "must be a whole number of at least 1", delay)
        require(frames in (1, 2), "frames", "must be 1 or 2", frames)
        self.delay, self.frames = delay, frames

    def step(self, engine: EngineView) -> None:
        """Accept whole latent frames for every clip, as many as all of the clips that are not at their end may have."""
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
    """Return the passes over `frames` latent frames; a token sees the tokens drawn by then and written before it."""
    assert order == "raster" or frames == 1, "lattices of one latent frame after the other"
    pass_A = _diagonals(rows, columns, frames, delay) if order == "raster" else _by_lattice(rows, columns, delay)
    position_A, found = torch.arange(len(pass_A)), []
    for index in pass_A.unique().tolist():  # small frames may leave gaps: one ends before the next one may begin
        offsets_L = (pass_A == index).nonzero()[:, 0]
        sees_LA = (pass_A <= index) & (position_A <= offsets_L[:, None])
        found.append(Wave(tuple(offsets_L.tolist()), sees_LA))
    return tuple(found)


def _diagonals(rows: int, columns: int, frames: int, delay: int) -> torch.Tensor:
    """Return the index of the pass (frames * rows * columns,) in which each token is drawn."""
    delay = min(delay, columns)
    passes = (rows - 1) * delay + columns
    # A token's neighbours include the one below its position one frame earlier, which must be drawn before.
    lag = max(-(-passes // 2), delay + 1)
    position_A = torch.arange(frames * rows * columns)
    frame_A, y_A, x_A = position_A // (rows * columns), position_A // columns % rows, position_A % columns
    return frame_A * lag + y_A * delay + x_A


def _by_lattice(rows: int, columns: int, delay: int) -> torch.Tensor:
    """Return the index of the pass in which each token of a latent frame is drawn.

    A pass takes every n-th token of a lattice, so that the tokens drawn together lie apart.
    """
    indices, first = [], 0
    for lattice in lattices(rows, columns):
        passes = min(delay, len(lattice))
        indices.append(first + torch.arange(len(lattice)) % passes)
        first += passes
    return torch.cat(indices)
