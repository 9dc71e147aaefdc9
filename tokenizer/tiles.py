"""A tokenizer for pictures of any size: tile by tile, with the exact halo of its receptive field, in bounded memory.

    tiled = TiledTokenizer(tokenizer, tile=64)                       # cells of TILE x TILE tokens
    tokens_Bthw, cache = tiled.encode_chunk(frames_BTHW3, None)      # sides are multiples of the stride
    frames_BTHW3, cache = tiled.decode_chunk(tokens_Bthw, None)

Each tile is computed with as many tokens around it as its result depends on, cut off at the picture's borders, and only
the tile itself is kept. So the result is that of the whole picture, seams and all borders included; what overlaps is
computed twice.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..core.errors import require
from .layers import ConvCache
from .video_tokenizer import VideoTokenizer

# One for each tile, in raster order.
TileCache = list[ConvCache]


@dataclass(frozen=True)
class Span:
    """Along one side of a picture, in tokens: [start, stop) is kept of what is computed, [low, high)."""

    start: int
    stop: int
    low: int
    high: int


def tile_spans(cells: int, tile: int, halo: int) -> list[Span]:
    """Tiles along a side of `cells` tokens, about equally long and none longer than `tile`."""
    count = -(-cells // tile)
    ends = [round(index * cells / count) for index in range(count + 1)]
    return [
        Span(start, stop, max(0, start - halo), min(cells, stop + halo)) for start, stop in itertools.pairwise(ends)
    ]


class TiledTokenizer:
    """`encode_chunk` and `decode_chunk` of a tokenizer, computed in tiles.

    Args:
        tokenizer: any.
        tile: the most rows and columns of tokens that are computed at once, without their halo.
    """

    def __init__(self, tokenizer: VideoTokenizer, tile: int) -> None:
        require(tile >= 1, "tile", "must be at least 1", tile)
        self.tokenizer, self.tile = tokenizer, tile

    def _tiles(self, rows: int, columns: int, halo: int) -> Iterator[tuple[int, Span, Span]]:
        across = tile_spans(columns, self.tile, halo)
        for index, down in enumerate(tile_spans(rows, self.tile, halo)):
            for place, span in enumerate(across):
                yield index * len(across) + place, down, span

    def encode_chunk(self, frames_BTHW3: torch.Tensor, cache: TileCache | None) -> tuple[torch.Tensor, TileCache]:
        """Tokens of the next frames, and the cache for those after them; None starts a clip."""
        stride, config = self.tokenizer.compression, self.tokenizer.config
        grid = self.tokenizer.grid(1, *frames_BTHW3.shape[2:4])
        tokens_Bthw, pasts = torch.empty(0), []
        for index, down, across in self._tiles(grid.h, grid.w, config.encoder_halo):
            rows = slice(down.low * stride.h, down.high * stride.h)
            columns = slice(across.low * stride.w, across.high * stride.w)
            part, past = self.tokenizer.encode_chunk(
                frames_BTHW3[:, :, rows, columns], None if cache is None else cache[index]
            )
            if not index:
                tokens_Bthw = part.new_empty(*part.shape[:2], grid.h, grid.w)
            tokens_Bthw[:, :, down.start : down.stop, across.start : across.stop] = part[
                :, :, down.start - down.low : down.stop - down.low, across.start - across.low : across.stop - across.low
            ]
            pasts.append(past)
        return tokens_Bthw, pasts

    def decode_chunk(self, tokens_Bthw: torch.Tensor, cache: TileCache | None) -> tuple[torch.Tensor, TileCache]:
        """Frames of the next latent frames, and the cache for those after them; None starts a clip."""
        stride, config = self.tokenizer.compression, self.tokenizer.config
        h, w = tokens_Bthw.shape[2:]
        frames_BTHW3, pasts = torch.empty(0), []
        for index, down, across in self._tiles(h, w, config.decoder_halo):
            part, past = self.tokenizer.decode_chunk(
                tokens_Bthw[:, :, down.low : down.high, across.low : across.high],
                None if cache is None else cache[index],
            )
            if not index:
                frames_BTHW3 = part.new_empty(*part.shape[:2], h * stride.h, w * stride.w, 3)
            rows = slice((down.start - down.low) * stride.h, (down.stop - down.low) * stride.h)
            columns = slice((across.start - across.low) * stride.w, (across.stop - across.low) * stride.w)
            frames_BTHW3[
                :, :, down.start * stride.h : down.stop * stride.h, across.start * stride.w : across.stop * stride.w
            ] = part[:, :, rows, columns]
            pasts.append(past)
        return frames_BTHW3, pasts
