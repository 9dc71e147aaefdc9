"""Sizes of the language model `VideoTransformer`, and what follows from them: its layout and its cost.

config = LMConfig(vocab_size=1920, rows=8, columns=8, order="coarse")
config.layout.frame_size                                    # 64
config.cost(rows=2, count=16, numerics=Numerics()).cache    # bytes
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch

from ..core.errors import require
from ..core.layout import VIDEO, FrameLayout, Segment
from ..core.protocols import Cost, Numerics
from ..core.token_history import HISTORY
from ..core.token_order import ORDERS, Order
from .neighbours import neighbours


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """Sizes of the language model.

    Attributes:
        vocab_size: video token ids.
        rows, columns: of a latent frame in tokens.
        order: in which these are written, "raster" or "coarse" (core/token_order.py).
        window: latent frames that a token sees, its own included; at least 3, as its neighbours reach two back.
        text_vocab_size: text token ids.
        prefix: slots for text tokens.
        width: channels of the residual stream.
        depth: blocks.
        heads: query heads.
        kv_heads: key/value heads (grouped-query attention, Ainslie et al. 2023, arXiv 2305.13245).
        head_dim: channels of a head.
        hidden: channels inside the SwiGLU layer (Shazeer 2020, arXiv 2002.05202).
        neighbour_dim: channels of each neighbouring token's embedding.
    """

    kind: ClassVar[str] = "transformer"

    vocab_size: int
    rows: int = 8
    columns: int = 8
    order: Order = "raster"
    window: int = 5
    text_vocab_size: int = 256
    prefix: int = 32
    width: int = 256
    depth: int = 6
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 32
    hidden: int = 512
    neighbour_dim: int = 64

    def __post_init__(self) -> None:
        require(self.order in ORDERS, "order", f"must be one of {', '.join(ORDERS)}", self.order)
        require(self.window >= 3, "window", "must be at least 3", self.window)
        groups = self.kv_heads >= 1 and self.heads % self.kv_heads == 0
        require(groups, "kv_heads", f"must divide heads ({self.heads})", self.kv_heads)
        require(self.head_dim % 2 == 0, "head_dim", "must be even", self.head_dim)
        for name in ("vocab_size", "rows", "columns", "text_vocab_size", "prefix", "width", "depth", "heads",
                     "head_dim", "hidden", "neighbour_dim"):  # fmt: skip
            require(getattr(self, name) >= 1, name, "must be at least 1", getattr(self, name))

    @property
    def layout(self) -> FrameLayout:
        """Of one latent frame: the video alone."""
        return _layout(self.rows, self.columns, self.vocab_size, self.order)

    @property
    def frame_size(self) -> int:
        """The number of tokens in a latent frame."""
        return self.rows * self.columns

    def ring(self, ahead: int) -> int:
        """Video slots of a cache for passes that look up to `ahead` latent frames ahead."""
        return (self.window + ahead) * self.frame_size

    @property
    def _matrices(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of every linear layer that a video token goes through; the head comes last."""
        heads = (self.heads + 2 * self.kv_heads) * self.head_dim
        layer = [(self.width, heads), (self.heads * self.head_dim, self.width),
                 (self.width, 2 * self.hidden), (self.hidden, self.width)]  # fmt: skip
        mix = (len(neighbours(self.order)) * self.neighbour_dim, self.width)
        return [mix, *layer * self.depth, (self.width, self.vocab_size)]

    def cost(self, rows: int, count: int, numerics: Numerics) -> Cost:
        """What passes over `count` positions of so many rows take; see `Cost`."""
        itemsize, matrices = numerics.dtype.itemsize, self._matrices
        inside = sum(inputs * outputs for inputs, outputs in matrices)
        embeddings = self.width * (self.text_vocab_size + self.frame_size) + (self.vocab_size + 1) * self.neighbour_dim
        norms = self.width + self.depth * 2 * (self.width + self.head_dim)
        parameters = inside + embeddings + norms
        # An int8 matrix has a scale and a zero point for each output; a GPU has the scale alone.
        packed = inside + sum(12 * outputs for _, outputs in matrices)
        matrix_bytes = packed if numerics.weights == "int8" else inside * itemsize
        weights = matrix_bytes + (parameters - inside) * itemsize
        slots = self.prefix + self.ring(-(-count // self.frame_size))
        heads = rows * self.depth * self.kv_heads * slots
        held = 2 * heads * (self.head_dim + 4 if numerics.cache == "int8" else self.head_dim * itemsize)
        attended = 4 * self.depth * self.heads * self.head_dim * slots
        return Cost(
            parameters=parameters,
            weights=weights,
            loading=self._loading(numerics, weights, parameters),
            cache=held + 8 * rows * HISTORY * self.frame_size,
            state=held // rows,
            step=self._step(rows, count, slots, numerics),
            flops=rows * count * (2 * inside + attended),
            read=matrix_bytes + norms * itemsize,
        )

    def _loading(self, numerics: Numerics, weights: int, parameters: int) -> int:
        """Bytes beside the weights while they are read, as float16 from a file, in float32 and as they are to be."""
        matrices = self._matrices
        if numerics.device == "cpu":
            return 4 * parameters - weights + 2 * parameters
        if numerics.weights == "full":
            return 0
        # On a GPU int8 is made of one matrix after the other, and of the head last. A matrix lies there three times in
        # float32: as it came, divided by its scales, rounded.
        itemsize = numerics.dtype.itemsize
        *inner, head = [inputs * outputs for inputs, outputs in matrices]
        whole = parameters * itemsize
        return max(whole - weights + 3 * 4 * max(inner), head * (itemsize - 1) + 3 * 4 * head)

    def _step(self, rows: int, count: int, slots: int, numerics: Numerics) -> int:
        """Bytes of the largest layer of a pass, or of its logits."""
        itemsize, on_gpu = numerics.dtype.itemsize, numerics.device != "cpu"
        width, heads = self.width, (self.heads + self.kv_heads) * self.head_dim
        # A layer's keys and values of int8, as floating-point numbers to multiply with.
        as_floats = 2 * max(4, itemsize) * rows * self.kv_heads * slots * self.head_dim
        as_floats = as_floats if numerics.cache == "int8" and not on_gpu else 0
        # The stream and its norm; then queries, keys and values, as they come, in float32, normalised, turned, split.
        attention = itemsize * (2 * width + 3 * heads) + 4 * 3 * heads
        # Products in two parts, with the mask, and as weights; the Triton kernel keeps none of them.
        attention += 0 if on_gpu else 3 * max(4, itemsize) * self.heads * slots
        mlp = itemsize * (3 * width + 4 * self.hidden)
        video_input = len(neighbours(self.order)) * (itemsize * self.neighbour_dim + 10 * 8)
        largest = max(attention, mlp, video_input, itemsize * (self.vocab_size + width))
        return as_floats + rows * count * (3 * 4 * slots + largest)


@lru_cache
def _layout(rows: int, columns: int, vocab_size: int, order: Order) -> FrameLayout:
    return FrameLayout((Segment(name=VIDEO, shape=(rows, columns), vocab_size=vocab_size, order=order),))


def cache_dtype(numerics: Numerics) -> torch.dtype:
    """The dtype of the keys and values of a cache."""
    return torch.int8 if numerics.cache == "int8" else numerics.dtype
