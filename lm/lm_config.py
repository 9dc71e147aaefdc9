"""The config of the language model `VideoTransformer`, and the layout and the cost that follow from it.

config = LMConfig(vocab_size=1920, rows=8, columns=8, order="coarse")
config.layout.frame_size                                    # 64
config.cost(rows=2, count=16, numerics=Numerics()).cache    # bytes
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch

from ..core.controls import NO_CONTROLLER, Controller
from ..core.errors import require
from ..core.layout import VIDEO, FrameLayout, Segment
from ..core.plain_values import convert_fields
from ..core.protocols import Cost, Numerics
from ..core.token_history import HISTORY
from ..core.token_order import ORDERS, Order
from ..kernels.backend import openvino_is_chosen
from .neighbours import neighbours

# Larger models gain little by it, since their time goes to the products, and would hold their matrices three times.
MOST_COMPILED = 32_000_000
# The growth of a process with a model of negligible size by OpenVINO 2026.4 on Linux x86-64.
OPENVINO_BYTES = 64 * 2**20
MAX_GUIDANCE = 100


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """The sizes of the language model.

    Attributes:
        vocab_size: The number of video token ids.
        rows, columns: The rows and columns of tokens of a latent frame.
        order: The order in which the tokens of a latent frame are written, "raster" or "coarse" (core/token_order.py).
        window: The number of latent frames that a token sees, its own included; at least 3, as the neighbours in its
            input reach two latent frames back.
        text_vocab_size: The number of text token ids.
        prefix: The number of slots for text tokens.
        width: The channels of the residual stream.
        depth: The number of blocks.
        heads: The number of query heads.
        kv_heads: The number of key/value heads (grouped-query attention, Ainslie et al. 2023, arXiv 2305.13245).
        head_dim: The channels of a head.
        hidden: The channels inside the SwiGLU layer (Shazeer 2020, arXiv 2002.05202).
        neighbour_dim: The channels of each neighbouring token's embedding.
        controller: The keys and axes that it is played by, whose tokens are given at the beginning of each latent frame
            (core/controls.py); none by default.
        guidance: The guidance scale for which the model has learnt the guided distribution, by a second set of weights
            (training/guidance_distillation.py); None for a model without one.
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
    controller: Controller = NO_CONTROLLER
    guidance: float | None = None

    def __post_init__(self) -> None:
        convert_fields(self)
        require(self.order in ORDERS, "order", f"must be one of {', '.join(ORDERS)}", self.order)
        require(self.window >= 3, "window", "must be at least 3", self.window)
        groups = self.kv_heads >= 1 and self.heads % self.kv_heads == 0
        require(groups, "kv_heads", f"must divide heads ({self.heads})", self.kv_heads)
        require(self.head_dim % 2 == 0, "head_dim", "must be even", self.head_dim)
        for name in ("vocab_size", "rows", "columns", "text_vocab_size", "prefix", "width", "depth", "heads",
                     "head_dim", "hidden", "neighbour_dim"):  # fmt: skip
            require(getattr(self, name) >= 1, name, "must be at least 1", getattr(self, name))
        fits = self.guidance is None or 1 < self.guidance <= MAX_GUIDANCE
        require(fits, "guidance", f"must be above 1 and at most {MAX_GUIDANCE}", self.guidance)

    @property
    def layout(self) -> FrameLayout:
        """The layout of one latent frame: the given segments of the controller, then the video."""
        return _layout(self.rows, self.columns, self.vocab_size, self.order, self.controller)

    @property
    def frame_size(self) -> int:
        """The number of tokens in a latent frame."""
        return self.layout.frame_size

    def ring(self, ahead: int) -> int:
        """Return the ring slots of a cache for passes that look up to `ahead` latent frames ahead."""
        return (self.window + ahead) * self.frame_size

    @property
    def parameters(self) -> int:
        """The number of weights of one set: those that compute the logits of a pass."""
        embeddings = self.width * (self.text_vocab_size + self.frame_size) + (self.vocab_size + 1) * self.neighbour_dim
        player = self.controller
        embeddings += self.width * player.pictures * (len(player.keys) + len(player.axes) * player.bins)
        return sum(inputs * outputs for inputs, outputs in _matrices(self)) + embeddings + self._norms

    @property
    def _norms(self) -> int:
        return self.width + self.depth * 2 * (self.width + self.head_dim)

    def cost(self, rows: int, count: int, numerics: Numerics) -> Cost:
        """Return the cost of passes over `count` positions of each of `rows` rows."""
        itemsize, matrices = numerics.dtype.itemsize, _matrices(self)
        matrix_weights = sum(inputs * outputs for inputs, outputs in matrices)
        sets = 1 if self.guidance is None else 2
        # An int8 matrix has a float32 scale and, on a CPU, an int64 zero point for each output.
        int8_bytes = matrix_weights + sum(12 * outputs for _, outputs in matrices)
        matrix_bytes = int8_bytes if numerics.weights == "int8" else matrix_weights * itemsize
        weights = matrix_bytes + (self.parameters - matrix_weights) * itemsize
        slots = self.prefix + self.ring(self.layout.frames(count))
        keys = rows * self.depth * self.kv_heads * slots
        kv_bytes = 2 * keys * (self.head_dim + 4 if numerics.cache == "int8" else self.head_dim * itemsize)
        attention_flops = 4 * self.depth * self.heads * self.head_dim * slots
        if is_compiled(self, numerics):
            weights += 2 * matrix_bytes  # OpenVINO holds them as they were given and as it computes with them
        return Cost(
            parameters=sets * self.parameters,
            weights=sets * weights,
            loading=self._loading(numerics),
            cache=kv_bytes + 8 * rows * HISTORY * self.frame_size,
            state=kv_bytes // rows,
            step=self._step(rows, count, slots, numerics),
            flops=rows * count * (2 * matrix_weights + attention_flops),
            read=matrix_bytes + self._norms * itemsize,
            runtime=OPENVINO_BYTES if is_compiled(self, numerics) else 0,
        )

    def _loading(self, numerics: Numerics) -> int:
        """Return the bytes beyond the weights while they are loaded, one matrix at a time.

        The largest matrix is that of the head, or of the gate and up projections of a layer. While it becomes int8, it
        is held in its own dtype and, on a GPU, three times in float32, or, on a CPU, once in float32 and once in int8.
        """
        largest, on_gpu = self.width * max(self.vocab_size, 2 * self.hidden), numerics.device != "cpu"
        if numerics.weights == "int8":
            return largest * (numerics.dtype.itemsize + 3 * 4 if on_gpu else 2 * 4 + 1)
        # A float32 matrix is held a second time while it is packed; for other dtypes the float16 of the file is held.
        return 0 if on_gpu else largest * (4 if numerics.dtype == torch.float32 else 2)

    def _step(self, rows: int, count: int, slots: int, numerics: Numerics) -> int:
        """Return the bytes of the largest activations of a pass: those of a layer, or the logits."""
        itemsize, on_gpu = numerics.dtype.itemsize, numerics.device != "cpu"
        width, heads = self.width, (self.heads + self.kv_heads) * self.head_dim
        # A CPU converts the int8 keys and values of a layer to floating-point numbers.
        dequantized = 2 * max(4, itemsize) * rows * self.kv_heads * slots * self.head_dim
        dequantized = dequantized if numerics.cache == "int8" and not on_gpu else 0
        # The residual stream and its norm; then heads: projected, in float32, normalised, rotated, split.
        attention = itemsize * (2 * width + 3 * heads) + 4 * 3 * heads
        # Scores in two parts, masked scores, and attention weights; the Triton kernel stores none of them.
        attention += 0 if on_gpu else 3 * max(4, itemsize) * self.heads * slots
        mlp = itemsize * (3 * width + 4 * self.hidden)
        video_input = _matrices(self)[0][0] // self.neighbour_dim * (itemsize * self.neighbour_dim + 10 * 8)
        largest = max(attention, mlp, video_input, itemsize * (self.vocab_size + width))
        return dequantized + rows * count * (3 * 4 * slots + largest)


@lru_cache
def _matrices(config: LMConfig) -> list[tuple[int, int]]:
    """Return the (inputs, outputs) of every linear layer for a video token, from `neighbour_mix` to the head."""
    heads = (config.heads + 2 * config.kv_heads) * config.head_dim
    layer = [(config.width, heads), (config.heads * config.head_dim, config.width),
             (config.width, 2 * config.hidden), (config.hidden, config.width)]  # fmt: skip
    mix = (len(neighbours(config.order)) * config.neighbour_dim, config.width)
    return [mix, *layer * config.depth, (config.width, config.vocab_size)]


@lru_cache
def _layout(rows: int, columns: int, vocab_size: int, order: Order, controller: Controller) -> FrameLayout:
    video = Segment(name=VIDEO, shape=(rows, columns), vocab_size=vocab_size, order=order)
    return FrameLayout((*controller.segments, video))


def is_compiled(config: LMConfig, numerics: Numerics) -> bool:
    """Return whether a model of these sizes decodes by `CompiledBlocks`, where the bits of rows allow it."""
    full = numerics.dtype == torch.float32 and numerics.weights == numerics.cache == "full"
    return openvino_is_chosen() and full and numerics.device == "cpu" and config.parameters <= MOST_COMPILED


def cache_dtype(numerics: Numerics) -> torch.dtype:
    """Return the dtype of the keys and values of a cache."""
    return torch.int8 if numerics.cache == "int8" else numerics.dtype
