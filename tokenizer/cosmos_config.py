"""The config of Cosmos' discrete video tokenizers.

CosmosConfig(temporal=8, spatial=16)                    # DV8x16x16, the tokenizer of Cosmos-Predict1's language models

The sizes are those of the published tokenizers DV4x8x8, DV8x8x8 and DV8x16x16 (NVIDIA 2025, arXiv 2501.03575).
"""

from dataclasses import dataclass
from math import ceil, prod
from typing import ClassVar

from ..core.errors import require
from ..core.layout import Compression
from ..core.plain_values import convert_fields


@dataclass(frozen=True, kw_only=True)
class CosmosConfig:
    """The sizes of a tokenizer.

    Attributes:
        temporal: The number of frames in a latent frame (after latent frame 0, which is one frame).
        spatial: The number of rows and of columns of pixels in a token.
        patch: The frames, rows and columns that the wavelet transform makes one.
        channels: The channels of the first resolution.
        multipliers: The channels of each resolution, in units of `channels`.
        blocks: The residual blocks of each resolution of the encoder; the decoder has one more.
        latent_channels: The channels of the networks' ends.
        levels: The levels of each channel of a code (finite scalar quantization); their product is the vocabulary size.
        attended_frames: The latent frames that attention over time sees, its own included. The published code sees all
            frames of a clip, which it cuts into windows; a clip of no more latent frames than this has the same tokens
            and pixels here, and a longer one needs no more memory.
    """

    kind: ClassVar[str] = "cosmos"
    temporal: int = 8
    spatial: int = 16
    patch: int = 4
    channels: int = 128
    multipliers: tuple[int, ...] = (2, 4, 4)
    blocks: int = 2
    latent_channels: int = 16
    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    attended_frames: int = 16

    def __post_init__(self) -> None:
        convert_fields(self)
        require(self.patch in (1, 2, 4, 8), "patch", "must be 1, 2, 4 or 8", self.patch)
        changes = len(self.multipliers) - 1
        for name, value in (("temporal", self.temporal), ("spatial", self.spatial)):
            fits = value in [self.patch << halvings for halvings in range(changes + 1)]
            require(fits, name, f"must be {self.patch} times a power of two up to 2^{changes}", value)
        sizes = (self.channels, self.blocks, self.latent_channels, self.attended_frames, *self.multipliers)
        require(min(sizes) >= 1, "channels, multipliers, blocks, latent_channels, attended_frames",
                "must be at least 1", sizes)  # fmt: skip
        fits = len(self.levels) > 0 and min(self.levels) >= 3 and prod(self.levels) <= 2**18
        require(fits, "levels", f"must be from 3 on, with a product of at most {2**18}", self.levels)

    @property
    def compression(self) -> Compression:
        """The frames, rows and columns of pixels that one token stands for."""
        return Compression(self.temporal, self.spatial, self.spatial)

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return prod(self.levels)

    @property
    def halvings(self) -> tuple[int, int]:
        """How often the encoder halves the frames, and the rows and columns, after the wavelet transform."""
        return tuple((side // self.patch).bit_length() - 1 for side in (self.temporal, self.spatial))  # type: ignore[return-value]

    @property
    def doublings(self) -> list[tuple[bool, bool]]:
        """Which of the decoder's changes of resolution double the rows and columns, and which the frames."""
        times, sides = self.halvings
        temporal = [0 < number <= times for number in range(len(self.multipliers) - 1)]
        return [(doubles or (number < sides and sides > times), doubles) for number, doubles in enumerate(temporal)]

    @property
    def encoder_halo(self) -> None:
        """None, as attention and norms see a whole frame."""

    @property
    def decoder_halo(self) -> None:
        """None, as attention and norms see a whole frame."""

    @property
    def memory(self) -> int:
        """The number of latent frames before its own that a decoded frame depends on."""
        # A convolution over time looks two frames back, at 2^n frames a latent frame; a block has two of them.
        looks = [(1 + 2 * 2, 1)]  # of the first convolution and the middle's blocks
        rate = 1
        for _, doubles in (*self.doublings, (False, False)):
            looks.append((2 * (self.blocks + 1), rate))
            rate *= 1 + doubles
            looks.append((int(doubles), rate))
        looks.append((1, rate))
        return self.attended_frames - 1 + sum(ceil(2 * count / rate) for count, rate in looks)

    def pixel_bytes(self, clips: int, height: int, width: int) -> int:
        """Return the bytes that decoding one latent frame of each clip takes, in float32.

        They are the tensors of a residual block at the largest resolution, and twice the state: what each convolution
        over time keeps of two frames, and attention of the keys and values, before and after. Of the published sizes
        (DV8x16x16) 464 MiB were measured where this is 344, at 256x256, and 2,943 where it is 3,440, at 1024x640.
        """
        positions, frames, before, peak = (height // self.spatial) * (width // self.spatial), 1, 0, 0
        widths = [self.channels * each for each in reversed(self.multipliers)]
        state = 2 * (1 + 2 * 2 + self.attended_frames - 1) * widths[0] * positions
        for channels, (larger, doubles) in zip(widths, (*self.doublings, (False, False)), strict=True):
            peak = max(peak, 8 * max(channels, before) * positions * frames)
            state += 2 * 2 * (self.blocks + 1) * channels * positions + 2 * doubles * channels * positions
            frames, positions, before = frames * (1 + doubles), positions * (1 + 3 * larger), channels
        state += 2 * 3 * self.patch**3 * positions
        pixels = 3 * self.temporal * height * width
        return 4 * clips * (max(peak, 4 * pixels) + 2 * state)
