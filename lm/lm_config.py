"""The config of the language model `VideoTransformer`, and the layout and the cost that follow from it.

config = LMConfig(vocab_size=1920, rows=8, columns=8, order="coarse")
config.layout.frame_size                                    # 64
config.cost(rows=2, count=16, numerics=Numerics()).cache    # bytes
"""

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch

from ..core.controls import NO_CONTROLLER, Controller
from ..core.errors import require
from ..core.layout import VIDEO, FrameLayout, Segment
from ..core.plain_values import convert_fields
from ..core.protocols import Cost, Numerics
from ..core.token_order import ORDERS, Order
from ..kernels.backend import openvino_is_chosen
from .costs import block_matrices, norm_weights, transformer_cost
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
    epsilon: ClassVar[float] = 1e-6
    qk_norm: ClassVar[bool] = True

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
        matrices = [*block_matrices(self) * self.depth, *_others(self)]
        return self._rest + sum(inputs * outputs for inputs, outputs in matrices)

    @property
    def _rest(self) -> int:
        """The number of weights of one set that are no matrices of linear layers."""
        embeddings = self.width * (self.text_vocab_size + self.frame_size) + (self.vocab_size + 1) * self.neighbour_dim
        player = self.controller
        embeddings += self.width * player.pictures * (len(player.keys) + len(player.axes) * player.bins)
        return embeddings + norm_weights(self)

    def cost(self, rows: int, count: int, numerics: Numerics) -> Cost:
        """Return the cost of passes over `count` positions of each of `rows` rows."""
        return _cost(self, rows, count, numerics, is_compiled(self, numerics))


@lru_cache
def _cost(config: LMConfig, rows: int, count: int, numerics: Numerics, compiled: bool) -> Cost:
    itemsize = numerics.dtype.itemsize
    cost = transformer_cost(
        config, layer=block_matrices(config), others=_others(config), rest=config._rest,
        slots=config.prefix + config.ring(config.layout.frames(count)),
        rows=rows, count=count, numerics=numerics,
        inputs=len(neighbours(config.order)) * (itemsize * config.neighbour_dim + 10 * 8),
    )  # fmt: skip
    sets = 1 if config.guidance is None else 2
    # OpenVINO holds the matrices as they were given and as it computes with them.
    copies = 2 * (cost.weights - config._rest * itemsize) if compiled else 0
    return dataclasses.replace(
        cost, parameters=sets * cost.parameters, weights=sets * (cost.weights + copies),
        runtime=OPENVINO_BYTES if compiled else 0,
    )  # fmt: skip


def _others(config: LMConfig) -> list[tuple[int, int]]:
    """Return the (inputs, outputs) of the linear layers that are in no block: `neighbour_mix` and the head."""
    mix = (len(neighbours(config.order)) * config.neighbour_dim, config.width)
    return [mix, (config.width, config.vocab_size)]


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
