"""Encode and decode pictures of any size tile by tile, in bounded memory, with the result of the whole picture.

    tiled = TiledTokenizer(tokenizer, tile=64)                       # tiles of at most 64 x 64 tokens
    tokens_Bthw, state = tiled.encode_chunk(frames_BTHW3, None)      # sides are multiples of the stride
    frames_BTHW3, state = tiled.decode_chunk(tokens_Bthw, None)

Each tile is computed with a halo of as many tokens around it as its result depends on, cut off at the picture's
borders, and only the tile itself is kept. So there are no seams; tokens and pixels in a halo are computed more than
once. A picture of a codec whose results depend on all of it is one tile.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..core.errors import require
from ..core.protocols import AnyCodec

# The state of each tile, in raster order.
TileState = list[Any]


@dataclass(frozen=True)
class Span:
    """A tile along one side of a picture, in tokens: [low, high) is computed, and [start, stop) of it is kept."""

    start: int
    stop: int
    low: int
    high: int


def tile_spans(cells: int, tile: int, halo: int) -> list[Span]:
    """Return the tiles along a side of `cells` tokens: about equally long, and none longer than `tile`."""
    count = -(-cells // tile)
    ends = [round(index * cells / count) for index in range(count + 1)]
    return [
        Span(start, stop, max(0, start - halo), min(cells, stop + halo)) for start, stop in itertools.pairwise(ends)
    ]


class TiledTokenizer:
    """A tokenizer whose `encode_chunk` and `decode_chunk` are computed in tiles.

    Args:
        tokenizer: The tokenizer to use.
        tile: The largest number of rows and of columns of tokens that are computed at once, without their halo.
    """

    def __init__(self, tokenizer: AnyCodec, tile: int) -> None:
        require(tile >= 1, "tile", "must be at least 1", tile)
        self.tokenizer, self.tile = tokenizer, tile

    def _tiles(self, rows: int, columns: int, halo: int | None) -> Iterator[tuple[int, Span, Span]]:
        tile, halo = (max(rows, columns), 0) if halo is None else (self.tile, halo)
        spans = itertools.product(tile_spans(rows, tile, halo), tile_spans(columns, tile, halo))
        for index, (down, across) in enumerate(spans):
            yield index, down, across

    def encode_chunk(self, frames_BTHW3: torch.Tensor, state: TileState | None) -> tuple[torch.Tensor, TileState]:
        """Return the tokens of the next frames, and the state for those after them; None starts a clip."""
        stride, config = self.tokenizer.compression, self.tokenizer.config
        grid = self.tokenizer.grid(stride.first, *frames_BTHW3.shape[2:4])
        tokens_Bthw, next_state = torch.empty(0), []
        for index, down, across in self._tiles(grid.h, grid.w, config.encoder_halo):
            rows = slice(down.low * stride.h, down.high * stride.h)
            columns = slice(across.low * stride.w, across.high * stride.w)
            part, part_state = self.tokenizer.encode_chunk(
                frames_BTHW3[:, :, rows, columns], None if state is None else state[index]
            )
            if not index:
                tokens_Bthw = part.new_empty(*part.shape[:2], grid.h, grid.w)
            tokens_Bthw[:, :, down.start : down.stop, across.start : across.stop] = part[
                :, :, down.start - down.low : down.stop - down.low, across.start - across.low : across.stop - across.low
            ]
            next_state.append(part_state)
        return tokens_Bthw, next_state

    def decode_chunk(self, tokens_Bthw: torch.Tensor, state: TileState | None) -> tuple[torch.Tensor, TileState]:
        """Return the frames of the next latent frames, and the state for those after them; None starts a clip."""
        stride, config = self.tokenizer.compression, self.tokenizer.config
        h, w = tokens_Bthw.shape[2:]
        frames_BTHW3, next_state = torch.empty(0), []
        for index, down, across in self._tiles(h, w, config.decoder_halo):
            part, part_state = self.tokenizer.decode_chunk(
                tokens_Bthw[:, :, down.low : down.high, across.low : across.high],
                None if state is None else state[index],
            )
            if not index:
                frames_BTHW3 = part.new_empty(*part.shape[:2], h * stride.h, w * stride.w, 3)
            rows = slice((down.start - down.low) * stride.h, (down.stop - down.low) * stride.h)
            columns = slice((across.start - across.low) * stride.w, (across.stop - across.low) * stride.w)
            frames_BTHW3[
                :, :, down.start * stride.h : down.stop * stride.h, across.start * stride.w : across.stop * stride.w
            ] = part[:, :, rows, columns]
            next_state.append(part_state)
        return frames_BTHW3, next_state
