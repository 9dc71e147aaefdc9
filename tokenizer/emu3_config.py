"""The config of Emu3's vector-quantized video tokenizer.

Emu3CodecConfig()                                       # of clips; pictures=True of still pictures

The sizes are those of the published tokenizer (BAAI 2024, arXiv 2409.18869).
"""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from ..core.errors import require
from ..core.layout import Compression
from ..core.plain_values import convert_fields

GROUPS = 32  # of every norm


@dataclass(frozen=True, kw_only=True)
class Emu3CodecConfig:
    """The sizes of a tokenizer.

    Attributes:
        codebook_size: The number of codes.
        embed_dim: The channels of a code.
        latent_channels: The channels of the encoder's and decoder's ends.
        temporal: The number of frames in a latent frame.
        base_channels: The channels of the first resolution.
        multipliers: The channels of each resolution, in units of `base_channels`.
        blocks: The residual blocks of each resolution of the encoder; the decoder has one more.
        attended: The resolutions with attention over the positions of a frame; they have the channels of the last one.
        pictures: Whether frames are still pictures, each by itself, as transformers encodes and decodes them.
    """

    kind: ClassVar[str] = "emu3"
    codebook_size: int = 32768
    embed_dim: int = 4
    latent_channels: int = 4
    temporal: int = 4
    base_channels: int = 256
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    blocks: int = 2
    attended: tuple[int, ...] = (3,)
    pictures: bool = False

    def __post_init__(self) -> None:
        convert_fields(self)
        sizes = (self.codebook_size, self.embed_dim, self.latent_channels, self.blocks, *self.multipliers)
        require(min(sizes) >= 1, "codebook_size, embed_dim, latent_channels, blocks, multipliers", "must be at least 1",
                sizes)  # fmt: skip
        power = self.temporal >= 1 and self.temporal & (self.temporal - 1) == 0
        require(power, "temporal", "must be a power of two", self.temporal)
        fits = self.base_channels >= GROUPS and self.base_channels % GROUPS == 0
        require(fits, "base_channels", f"must be a multiple of {GROUPS}", self.base_channels)
        fits = all(
            0 <= level < len(self.multipliers) and self.multipliers[level] == self.multipliers[-1]
            for level in self.attended
        )
        require(fits, "attended", "must be resolutions with the channels of the last one", self.attended)

    @property
    def compression(self) -> Compression:
        """The frames, rows and columns of pixels that one token stands for."""
        side, frames = 2 ** (len(self.multipliers) - 1), 1 if self.pictures else self.temporal
        return Compression(frames, side, side, first=frames)

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return self.codebook_size

    @property
    def levels(self) -> tuple[int, ...]:
        """None, as codes are no scalars."""
        return ()

    @property
    def doublings(self) -> int:
        """How often the encoder halves the frames."""
        return self.temporal.bit_length() - 1

    @property
    def encoder_halo(self) -> None:
        """None, as attention and norms see a whole frame."""

    @property
    def decoder_halo(self) -> None:
        """None, as attention and norms see a whole frame."""

    @property
    def memory(self) -> int:
        """The number of latent frames before its own that a decoded frame depends on."""
        if self.pictures:
            return 0
        # A convolution over time looks two frames back: the first one and two in each block, then one at each rate.
        return 2 + 4 * self.blocks + sum(ceil(2 / 2**doubling) for doubling in range(1, self.doublings + 1))

    def pixel_bytes(self, clips: int, height: int, width: int) -> int:
        """Return the bytes that decoding one latent frame of each clip takes, in float32.

        They are the tensors of a residual block at the full resolution, or the scores of attention.
        """
        side = self.compression.h
        positions = (height // side) * (width // side)
        block = 6 * self.base_channels * self.multipliers[min(1, len(self.multipliers) - 1)] * height * width
        attention = positions**2 + 6 * self.base_channels * self.multipliers[-1] * positions
        return 4 * clips * self.temporal * max(block, attention)
