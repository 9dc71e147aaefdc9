"""The sizes of a transformer that its blocks, its cache and its costs depend on, whatever model it is of.

Attention(config)                   # config: BlockSizes
RingCache(config, …)                # config: CacheSizes
"""

from typing import Protocol

from ..core.layout import FrameLayout


class BlockSizes(Protocol):
    """The sizes of the blocks of a transformer, which are the same in all of them."""

    @property
    def width(self) -> int:
        """The channels of the residual stream."""

    @property
    def depth(self) -> int:
        """The number of blocks."""

    @property
    def heads(self) -> int:
        """The number of query heads."""

    @property
    def kv_heads(self) -> int:
        """The number of key/value heads."""

    @property
    def head_dim(self) -> int:
        """The channels of a head."""

    @property
    def hidden(self) -> int:
        """The channels inside the SwiGLU layer."""

    @property
    def epsilon(self) -> float:
        """The number that the norms add to the mean square."""

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised."""


class ModelSizes(BlockSizes, Protocol):
    """The sizes of a transformer over video tokens."""

    @property
    def vocab_size(self) -> int:
        """The number of ids that it predicts."""

    @property
    def layout(self) -> FrameLayout:
        """The layout of one latent frame."""


class CacheSizes(Protocol):
    """The sizes of a model that its cache depends on."""

    @property
    def frame_size(self) -> int:
        """The number of tokens in a latent frame."""

    @property
    def window(self) -> int:
        """The latent frames in the ring that a token sees, its own included."""

    @property
    def prefix(self) -> int:
        """The number of slots before the ring."""

    @property
    def depth(self) -> int:
        """The number of blocks."""

    @property
    def kv_heads(self) -> int:
        """The number of key/value heads."""

    @property
    def head_dim(self) -> int:
        """The channels of a head."""

    def ring(self, ahead: int) -> int:
        """Return the ring slots of a cache for passes that look up to `ahead` latent frames ahead."""
