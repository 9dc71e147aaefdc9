"""The config of a tokenizer, and its presets.

    TokenizerConfig(temporal=4, spatial=8)                  # the tokenizer of the bundled checkpoint "world"
    tokenizer_preset("small", "4x8x8")                      # a tokenizer for natural video

The sizes, costs and quality of the presets are in docs/tokenizer.md; a test checks the figures.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..core.errors import require
from ..core.layout import Compression
from ..core.plain_values import convert_fields
from .quantizer import QuantizerConfig


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The sizes of a tokenizer.

    Attributes:
        temporal: The number of frames in a latent frame (after latent frame 0, which is one frame).
        spatial: The number of rows and of columns of pixels in a token; a power of two, at least 4.
        front: The transform between pixels and channels: "patch" (none) or "haar" (a wavelet transform of each patch
            along time, rows and columns; `temporal` must then be a power of two).
        encoder_width: The channels of the encoder at twice the token resolution; it has twice as many at token
            resolution.
        encoder_depth: The number of residual blocks of the encoder at token resolution.
        encoder_spread: The number of these blocks that see the 8 neighbouring tokens; the others see one token.
        encoder_memory: The number of temporal layers of the encoder; each sees two latent frames further back. With 0,
            a token depends on its own latent frame alone.
        decoder_widths: The channels of the decoder at token resolution, then after each doubling of the resolution; the
            last stage writes each of its positions as a patch of the remaining factor of `spatial`.
        decoder_depth: The number of residual blocks of each decoder stage.
        decoder_memory: The number of temporal layers of the decoder, one before each of its first blocks; each sees two
            latent frames further back.
        quantizer: The config of the quantizer.
    """

    kind: ClassVar[str] = "convolutional"
    temporal: int = 4
    spatial: int = 8
    front: Literal["patch", "haar"] = "patch"
    encoder_width: int = 128
    encoder_depth: int = 2
    encoder_spread: int = 0
    encoder_memory: int = 0
    decoder_widths: tuple[int, ...] = (192, 96, 48)
    decoder_depth: tuple[int, ...] = (4, 2, 2)
    decoder_memory: int = 1
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    def __post_init__(self) -> None:
        convert_fields(self)
        require(self.temporal >= 1, "temporal", "must be at least 1", self.temporal)
        require(_is_power(self.spatial) and self.spatial >= 4, "spatial", "must be a power of two, at least 4",
                self.spatial)  # fmt: skip
        require(self.front in ("patch", "haar"), "front", "must be 'patch' or 'haar'", self.front)
        halves = self.front == "patch" or _is_power(self.temporal)
        require(halves, "temporal", "must be a power of two where front is 'haar'", self.temporal)
        fits = 1 <= len(self.decoder_widths) <= self.spatial.bit_length()
        require(fits, "decoder_widths", f"must name 1 to {self.spatial.bit_length()} stages", self.decoder_widths)
        same = len(self.decoder_depth) == len(self.decoder_widths)
        require(same, "decoder_depth", "must have one entry for each of decoder_widths", self.decoder_depth)
        positive = min(self.encoder_width, *self.decoder_widths, *self.decoder_depth) >= 1
        require(positive, "encoder_width, decoder_widths, decoder_depth", "must be at least 1", self.decoder_widths)
        for name, value, most in (
            ("encoder_depth", self.encoder_depth, None),
            ("encoder_spread", self.encoder_spread, self.encoder_depth),
            ("encoder_memory", self.encoder_memory, self.encoder_depth),
            ("decoder_memory", self.decoder_memory, self.decoder_depth[0]),
        ):
            rule = "must be at least 0" if most is None else f"must be between 0 and {most}"
            require(value >= 0 and (most is None or value <= most), name, rule, value)

    @property
    def compression(self) -> Compression:
        """The frames, rows and columns of pixels that one token stands for."""
        return Compression(self.temporal, self.spatial, self.spatial)

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return self.quantizer.vocab_size

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels of the channels of a code, for finite scalar quantization; else empty."""
        return self.quantizer.levels if self.quantizer.kind == "fsq" else ()

    def pixel_bytes(self, clips: int, height: int, width: int) -> int:
        """Return the bytes that decoding one latent frame of each clip takes: the decoder's largest stage, in float32.

        A residual block holds six tensors at once: the input of its stage, its own input, the outputs of its norm and
        its convolution, and the convolution's input and output in oneDNN's layout. The formula allows for eight, as the
        heap does not release all memory at once: 6.6 were measured with 16 clips of the bundled model, and 9 to 10
        with 128.

        Args:
            config: The sizes of the tokenizer.
            clips: The number of clips that are decoded together.
            height: The rows of pixels of each clip.
            width: The columns of pixels of each clip.
        """
        cells = (height // self.spatial) * (width // self.spatial)
        positions, widths, peak = cells, self.decoder_widths, 0
        for index, channels in enumerate(widths):
            peak = max(peak, 8 * channels * positions)
            if index + 1 < len(widths):  # the upsampling convolution in both layouts, and the copy of its pixel shuffle
                peak = max(peak, (3 * channels + 3 * 4 * widths[index + 1]) * positions)
                positions *= 4
        pixels = 3 * self.temporal * height * width
        # The head holds the stage's input, its own input in both layouts and its output in both; then come the frames,
        # in up to four copies.
        peak = max(peak, 3 * widths[-1] * positions + 2 * pixels, 4 * pixels)
        state = 3 * self.decoder_memory * widths[0] * cells
        return 4 * clips * (peak + state)

    @property
    def encoder_halo(self) -> int:
        """The largest distance, in tokens, of the pixels that a token depends on."""
        return 1 + self.encoder_spread

    @property
    def decoder_halo(self) -> int:
        """The largest distance, in tokens, of the tokens that a pixel depends on."""
        reach = 1  # the head
        for stage, depth in enumerate(reversed(self.decoder_depth)):
            # Each position of a stage becomes 2 x 2 positions of the next, which halves a distance.
            reach = depth + (-(-reach // 2) if stage else reach)
        return reach + 1  # the first convolution


def _is_power(value: int) -> bool:
    return value >= 1 and value & (value - 1) == 0


PRESETS = ("tiny", "small", "base")
COMPRESSIONS = ("4x8x8", "8x8x8", "4x16x16", "8x16x16")
# Most layers are at token resolution, where a parameter costs least. The encoders see a token and its neighbours, but
# no earlier latent frames, which improved PSNR by only 0.1 dB when measured. The decoders see further, as no language
# model has to predict what they compute.
_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "encoder_width": 48, "encoder_depth": 2, "encoder_spread": 1, "decoder_widths": (112, 64, 32),
        "decoder_depth": (4, 2, 1), "decoder_memory": 2, "quantizer": QuantizerConfig(levels=(8, 8, 8), spread=0.01),
    },
    "small": {
        "encoder_width": 128, "encoder_depth": 4, "encoder_spread": 1,
        "decoder_widths": (288, 128, 64), "decoder_depth": (6, 2, 1), "decoder_memory": 3,
        "quantizer": QuantizerConfig(levels=(8, 8, 8, 5), spread=0.01),
    },
    "base": {
        "encoder_width": 384, "encoder_depth": 6, "encoder_spread": 1,
        "decoder_widths": (800, 256, 128), "decoder_depth": (10, 3, 2), "decoder_memory": 4,
        "quantizer": QuantizerConfig(levels=(8, 8, 8, 5, 5, 5), spread=0.01),
    },
}  # fmt: skip


def tokenizer_preset(name: str, compression: str) -> TokenizerConfig:
    """Return the config of a preset for natural video.

    Args:
        name: The name of the preset, one of PRESETS: about 1, 8 and 100 million parameters.
        compression: The frames x rows x columns of pixels of a token, one of COMPRESSIONS.
    """
    require(name in PRESETS, "preset", f"must be one of {', '.join(PRESETS)}", name)
    require(compression in COMPRESSIONS, "compression", f"must be one of {', '.join(COMPRESSIONS)}", compression)
    temporal, spatial, _ = map(int, compression.split("x"))
    return TokenizerConfig(temporal=temporal, spatial=spatial, front="haar", **_SIZES[name])
