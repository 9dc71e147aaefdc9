"""The one legend of shapes, and `TokenGrid`, the shape of a clip in tokens.

    A newer positions that a step may see      N heads of queries
    B clips, pictures or rows of a batch       O outputs of a linear layer
    C slots of a cache                         P slots of the text prefix
    D channels of a model or a codebook        Q slots of a ring of positions
    E channels of a head                       R rows of logits: B, or 2 B under guidance
    F half the channels of a head              S positions of a sequence or of a latent frame
    G query heads of a key/value head          T frames
    H rows of pixels                           U distinct prefixes
    I inputs of a linear layer                 V token ids
    J heads of a joint projection: N + 2 K     W columns of pixels
    K heads of keys and values                 X any other axis
    L positions of a pass                      Y any other axis beside X
    M rows of a matrix, or items in a list     Z codes of a codebook
    t latent frames                            h rows of tokens
    w columns of tokens

A name such as `tokens_BS` or `q_BSNE` carries its shape; a digit is a size; without a suffix the docstring gives it.
Frame 0 of a clip is a latent frame of its own, and every further `temporal` frames are one: T = 1 + temporal * (t - 1).
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
