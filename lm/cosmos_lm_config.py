"""The config of NVIDIA's Cosmos-Predict1 autoregressive models, and the layout and the cost that follow from it.

CosmosLMConfig()                                                    # 4B
CosmosLMConfig(width=5120, depth=40, yarn_scale=2.0)                # 12B
CosmosLMConfig(context_dim=1024)                                    # 5B, which reads embeddings of text; 13B has both
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from ..core.errors import require
from ..core.layout import VIDEO, FrameLayout, Segment
from ..core.plain_values import convert_fields
from ..core.protocols import Cost, Numerics
from .costs import block_matrices, norm_weights, transformer_cost


@dataclass(frozen=True, kw_only=True)
class CosmosLMConfig:
    """The sizes of a Cosmos-Predict1 autoregressive model, by default those of 4B.

    Attributes:
        vocab_size: The number of video token ids.
        rows, columns: The rows and columns of tokens of a latent frame.
        frames: The number of latent frames of the clips that the model was trained on.
        width: The channels of the residual stream.
        depth: The number of blocks.
        heads: The number of query heads.
        kv_heads: The number of key/value heads.
        head_dim: The channels of a head.
        hidden: The channels inside the SwiGLU layer.
        epsilon: The number that the norms add to the mean square.
        theta: The base of the rotary frequencies.
        yarn_scale: The factor by which YaRN lengthens the waves that are long for a clip of `YARN_SHAPE`
            (Peng et al. 2023, arXiv 2309.00071); 1 for no change.
        context_dim: The channels of the text embeddings that it reads by cross-attention; 0 for a model that reads
            none. One that does also has a begin token, and positions that are added before every block.
        context_length: The number of text embeddings.
    """

    kind: ClassVar[str] = "cosmos"
    guidance: ClassVar[None] = None
    qk_norm: ClassVar[bool] = True

    vocab_size: int = 64000
    rows: int = 40
    columns: int = 64
    frames: int = 5
    width: int = 4096
    depth: int = 16
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    hidden: int = 14336
    epsilon: float = 1e-5
    theta: float = 500_000.0
    yarn_scale: float = 1.0
    context_dim: int = 0
    context_length: int = 512

    def __post_init__(self) -> None:
        convert_fields(self)
        for name in ("vocab_size", "rows", "columns", "width", "depth", "heads", "kv_heads", "hidden",
                     "context_length"):  # fmt: skip
            require(getattr(self, name) >= 1, name, "must be at least 1", getattr(self, name))
        require(self.heads % self.kv_heads == 0, "kv_heads", f"must divide heads ({self.heads})", self.kv_heads)
        require(self.head_dim >= 6 and self.head_dim % 2 == 0, "head_dim", "must be even, at least 6", self.head_dim)
        require(self.width >= 6 and self.width % 2 == 0, "width", "must be even, at least 6", self.width)
        require(self.frames >= 3, "frames", "must be at least 3", self.frames)
        require(self.epsilon > 0, "epsilon", "must be above 0", self.epsilon)
        require(self.theta > 1, "theta", "must be above 1", self.theta)
        require(self.yarn_scale >= 1, "yarn_scale", "must be at least 1", self.yarn_scale)
        require(self.context_dim >= 0, "context_dim", "must be at least 0", self.context_dim)

    @property
    def layout(self) -> FrameLayout:
        """The layout of one latent frame: its video tokens in raster order."""
        return _layout(self.rows, self.columns, self.vocab_size)

    @property
    def frame_size(self) -> int:
        """The number of tokens in a latent frame."""
        return self.rows * self.columns

    @property
    def rolls(self) -> bool:
        """Whether clips go on beyond `frames` in one cache; positions that are added forbid it."""
        return not self.context_dim

    @property
    def window(self) -> int:
        """The latent frames in the ring that a token sees, its own included; where it rolls, it sees the first, too."""
        return self.frames - 1 if self.rolls else self.frames

    @property
    def prefix(self) -> int:
        """The slots before the ring: the first latent frame, which later ones go on seeing, or the begin token."""
        return self.frame_size if self.rolls else 1

    @property
    def prefix_from(self) -> int:
        """The latent frame from which on tokens see the prefix: the first one has just left the ring's window."""
        return self.window if self.rolls else 0

    def ring(self, ahead: int) -> int:
        """Return the ring slots of a cache for passes that look up to `ahead` latent frames ahead."""
        return (self.window + ahead) * self.frame_size

    def cost(self, rows: int, count: int, numerics: Numerics) -> Cost:
        """Return the cost of passes over `count` positions of each of `rows` rows."""
        begin = 1 if self.context_dim else 0
        rest = (self.vocab_size + begin) * self.width + norm_weights(self)
        rest += begin * self.depth * (self.width + 2 * self.head_dim)
        return transformer_cost(
            self, layer=_layer(self), others=[(self.width, self.vocab_size)], rest=rest,
            slots=self.prefix + self.ring(self.layout.frames(count)),
            rows=rows, count=count, numerics=numerics, inputs=begin * 3 * 8 * self.width,
            states=begin * 2 * self.depth * self.kv_heads * self.context_length * self.head_dim,
        )  # fmt: skip


def _layer(config: CosmosLMConfig) -> list[tuple[int, int]]:
    """Return the (inputs, outputs) of the linear layers of a block, with those of its cross-attention."""
    layer, heads = block_matrices(config), config.heads * config.head_dim
    if config.context_dim:
        layer += [(config.width, heads), (config.context_dim, 2 * config.kv_heads * config.head_dim),
                  (heads, config.width)]  # fmt: skip
    return layer


@lru_cache
def _layout(rows: int, columns: int, vocab_size: int) -> FrameLayout:
    return FrameLayout((Segment(name=VIDEO, shape=(rows, columns), vocab_size=vocab_size),))
