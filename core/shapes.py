"""The one legend of shapes, and `TokenGrid`, the shape of a clip in tokens.

    B batch        S sequence (tokens)   P prefix (text) slots     L query tokens of one decoding step
    N query heads  K key/value heads     E head_dim                D model width     V vocabulary
    T H W          frames, height, width of a clip in pixels (C = 3 channels)
    t h w          latent frames, rows, columns of a clip in tokens

A name such as `tokens_BS` or `q_BSNE` carries its shape; without a suffix the docstring gives it. Frame 0 of a clip is
a latent frame of its own, and every further `temporal` frames are one: T = 1 + temporal * (t - 1).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenGrid:
    """The shape (t, h, w) of a clip in tokens, in raster order: time, then rows, then columns."""

    t: int
    h: int
    w: int

    @property
    def frame_size(self) -> int:
        """Tokens in one latent frame."""
        return self.h * self.w

    @property
    def size(self) -> int:
        """Tokens in the clip."""
        return self.t * self.frame_size


@dataclass(frozen=True)
class Compression:
    """How many frames, rows and columns of pixels one token stands for."""

    t: int
    h: int
    w: int

    def latent_frames(self, frames: int) -> int:
        """Latent frames that hold `frames` pixel frames (the last one may be filled up)."""
        return 1 + -(-(frames - 1) // self.t)

    def frames(self, latent_frames: int) -> int:
        """Pixel frames of `latent_frames` whole latent frames."""
        return 1 + (latent_frames - 1) * self.t if latent_frames > 0 else 0
