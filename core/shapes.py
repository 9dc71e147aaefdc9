"""The legend of the letters in tensor names, and `TokenGrid`, the shape of a clip in tokens.

    A next positions that a pass may see       N heads of queries
    B clips, images or rows of a batch         O outputs of a linear layer
    C slots of a cache                         P slots of the text prefix
    D channels of a model or a codebook        Q slots of a ring of positions
    E channels of a head                       R rows of logits: B, or 2 B under guidance
    F half the channels of a head              S positions of a sequence or of a latent frame
    G query heads of a key/value head          T frames
    H rows of pixels                           U distinct prefixes
    I inputs of a linear layer                 V token ids
    J heads of a joint projection: N + 2 K     W columns of pixels
    K heads of keys and values                 X any other axis
    L positions of a pass                      Y any other axis next to X
    M rows of a matrix, or items in a list     Z codes of a codebook
    t latent frames                            h rows of tokens
    w columns of tokens

The suffix of a name such as `tokens_BS` or `q_BSNE` is the tensor's shape, in which a digit is a size; for a name
without a suffix the docstring gives the shape. Frame 0 of a clip is a latent frame by itself, and each further group of
`temporal` frames is one: T = 1 + temporal * (t - 1).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenGrid:
    """The shape of a clip in tokens.

    Attributes:
        t: The latent frames.
        h: The rows of tokens.
        w: The columns of tokens.
    """

    t: int
    h: int
    w: int

    @property
    def frame_size(self) -> int:
        """The number of tokens in one latent frame."""
        return self.h * self.w

    @property
    def size(self) -> int:
        """The number of tokens in the clip."""
        return self.t * self.frame_size


@dataclass(frozen=True)
class Compression:
    """The size in pixels that one token represents.

    Attributes:
        t: The frames of a latent frame, save the first one.
        h: The rows of pixels.
        w: The columns of pixels.
    """

    t: int
    h: int
    w: int

    def latent_frames(self, frames: int) -> int:
        """Return the number of latent frames that hold `frames` frames of pixels, the last one perhaps with padding."""
        return 1 + -(-(frames - 1) // self.t)

    def frames(self, latent_frames: int) -> int:
        """Return the number of frames of pixels in `latent_frames` latent frames."""
        return 1 + (latent_frames - 1) * self.t if latent_frames > 0 else 0
