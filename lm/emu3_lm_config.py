"""The config of Emu3's language model, and the places of its tokens between the delimiters of the published layout.

config = Emu3LMConfig(rows=90, columns=90)                          # pictures
config = Emu3LMConfig(rows=32, columns=32, frames=4)                # clips, for models that are trained on them
config.sequence(positions_BL)                                       # their places among all tokens of the frames

A picture is a row of tokens, an end of line, the next row, and so on. A clip is the tokens of a latent frame, an end of
frame, the next one, and so on. What is given is never drawn: a delimiter is read in the pass that draws the token after
it (BAAI 2024, arXiv 2409.18869; the ids are in the checkpoint).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch

from ..core.errors import require
from ..core.layout import VIDEO, FrameLayout, Segment
from ..core.plain_values import convert_fields
from ..core.protocols import Cost, Numerics
from .costs import block_matrices, norm_weights, transformer_cost


@dataclass(frozen=True, kw_only=True)
class Emu3LMConfig:
    """The sizes of the language model, by default those that were published.

    Attributes:
        vocab_size: The number of video token ids.
        rows, columns: The rows and columns of tokens of a latent frame.
        frames: The number of latent frames of a clip; 1 for still pictures, which have a layout of their own.
        text_vocab_size: The number of all ids, those of text, of delimiters and of video tokens.
        first_video_id: The id of video token 0; the others follow.
        begin_id, picture_id, tokens_id: The ids of the begin token, of the beginning of a picture or clip, and of the
            beginning of its tokens.
        line_id, frame_id: The ids of the end of a line and of the end of a latent frame.
        prefix: The number of slots for the text and the tokens around it.
        width: The channels of the residual stream.
        depth: The number of blocks.
        heads: The number of query heads.
        kv_heads: The number of key/value heads.
        head_dim: The channels of a head.
        hidden: The channels inside the SwiGLU layer.
        epsilon: The number that the norms add to the mean square.
        theta: The base of the rotary frequencies.
    """

    kind: ClassVar[str] = "emu3"
    guidance: ClassVar[None] = None
    qk_norm: ClassVar[bool] = False

    vocab_size: int = 32768
    rows: int
    columns: int
    frames: int = 1
    text_vocab_size: int = 184622
    first_video_id: int = 151854
    begin_id: int = 151849
    picture_id: int = 151852
    tokens_id: int = 151851
    line_id: int = 151846
    frame_id: int = 151847
    prefix: int = 256
    width: int = 4096
    depth: int = 32
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    hidden: int = 14336
    epsilon: float = 1e-5
    theta: float = 1_000_000.0

    def __post_init__(self) -> None:
        convert_fields(self)
        for name in ("vocab_size", "rows", "columns", "frames", "width", "depth", "heads", "kv_heads", "hidden"):
            require(getattr(self, name) >= 1, name, "must be at least 1", getattr(self, name))
        require(self.heads % self.kv_heads == 0, "kv_heads", f"must divide heads ({self.heads})", self.kv_heads)
        require(self.head_dim >= 2 and self.head_dim % 2 == 0, "head_dim", "must be even", self.head_dim)
        require(self.prefix >= 8, "prefix", "must be at least 8", self.prefix)
        require(self.epsilon > 0, "epsilon", "must be above 0", self.epsilon)
        require(self.theta > 1, "theta", "must be above 1", self.theta)
        ids = self.text_vocab_size
        fits = 0 <= self.first_video_id <= ids - self.vocab_size
        require(fits, "first_video_id", f"must leave {self.vocab_size} ids of {ids}", self.first_video_id)
        for name in ("begin_id", "picture_id", "tokens_id", "line_id", "frame_id"):
            require(0 <= getattr(self, name) < ids, name, f"must be from 0 to {ids - 1}", getattr(self, name))

    @property
    def layout(self) -> FrameLayout:
        """The layout of one latent frame: its video tokens in raster order."""
        return _layout(self.rows, self.columns, self.vocab_size)

    @property
    def window(self) -> int:
        """The number of latent frames that a token sees, its own included: all of the clip."""
        return self.frames

    @property
    def is_pictures(self) -> bool:
        """Whether the layout is that of still pictures."""
        return self.frames == 1

    @property
    def frame_size(self) -> int:
        """The slots of a latent frame in the cache: its tokens and its delimiters."""
        return self.rows * (self.columns + 1) if self.is_pictures else self.rows * self.columns + 1

    @property
    def size_text(self) -> str:
        """The text that says the size of a picture or clip to the model."""
        size = f"{self.rows}*{self.columns}"
        return size if self.is_pictures else f"{self.frames}*{size}"

    def ring(self, ahead: int) -> int:
        """Return the ring slots of a cache for passes that look up to `ahead` latent frames ahead."""
        return (self.frames + ahead + 1) * self.frame_size

    def sequence(self, positions: torch.Tensor) -> torch.Tensor:
        """Return the places of video tokens among all tokens of the latent frames."""
        frame, index = positions // (self.rows * self.columns), positions % (self.rows * self.columns)
        delimiters = index // self.columns if self.is_pictures else 0
        return frame * self.frame_size + index + delimiters

    def delimiters(self, count: int) -> int:
        """Return the largest number of delimiters between the token before so many positions and the last of them."""
        return -(-count // (self.columns if self.is_pictures else self.rows * self.columns))

    def cost(self, rows: int, count: int, numerics: Numerics) -> Cost:
        """Return the cost of passes over `count` positions of each of `rows` rows."""
        return transformer_cost(
            self, layer=block_matrices(self), others=[(self.width, self.vocab_size)],
            rest=self.text_vocab_size * self.width + norm_weights(self),
            slots=self.prefix + self.ring(self.layout.frames(count)), rows=rows,
            count=count + self.delimiters(count), numerics=numerics,
        )  # fmt: skip


@lru_cache
def _layout(rows: int, columns: int, vocab_size: int) -> FrameLayout:
    return FrameLayout((Segment(name=VIDEO, shape=(rows, columns), vocab_size=vocab_size),))
