"""The tokenizer: clips <-> grids of tokens, causal in time, at once or chunk by chunk with the same result.

    tokenizer = VideoTokenizer(TokenizerConfig())
    tokens_Bthw = tokenizer.encode(frames_BTHWC)              # uint8 or float in [0, 1]; T = 1 + 4 n
    frames_BTHWC = tokenizer.decode(tokens_Bthw)              # float in [0, 1]

    cache = None                                              # streaming: latent frames as they come
    for latent_frame in tokens_Bthw.split(1, dim=1):
        frames, cache = tokenizer.decode_chunk(latent_frame, cache)

Frame 0 is a latent frame of its own, every further `temporal` frames are one. The encoder is local: a token depends on
the pixels of its own cell and half a cell around it, and on no other latent frame, so that what stands still keeps its
tokens and a language model can predict them. The decoder is wide: it sees neighbouring tokens and the past.
"""

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..core.checkpoint import load_weights, read_json
from ..core.config import from_dict
from ..core.device import pick_device
from ..core.errors import require
from ..core.shapes import Compression, TokenGrid
from .layers import ChannelNorm, ConvCache, ResidualBlock, TemporalConv, Upsample
from .quantizer import Quantizer, QuantizerConfig


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Sizes of a tokenizer.

    Attributes:
        temporal: frames in a latent frame (after frame 0).
        spatial: rows and columns of pixels in a token; a power of two, at least 4.
        encoder_width: channels of the encoder.
        decoder_widths: channels of the decoder at token resolution, then after each doubling of it; the last stage
            writes what is left of `spatial` as one patch.
        decoder_depth: residual blocks of each decoder stage.
        decoder_memory: temporal layers of the decoder; each looks two latent frames further back.
        quantizer: see `QuantizerConfig`.
    """

    temporal: int = 4
    spatial: int = 8
    encoder_width: int = 128
    decoder_widths: tuple[int, ...] = (192, 96, 48)
    decoder_depth: tuple[int, ...] = (4, 2, 2)
    decoder_memory: int = 1
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    def __post_init__(self) -> None:
        require(self.temporal >= 1, "temporal", "must be at least 1", self.temporal)
        power = self.spatial >= 4 and self.spatial & (self.spatial - 1) == 0
        require(power, "spatial", "must be a power of two, at least 4", self.spatial)
        fits = 1 <= len(self.decoder_widths) <= self.spatial.bit_length()
        require(fits, "decoder_widths", f"must name 1 to {self.spatial.bit_length()} stages", self.decoder_widths)
        same = len(self.decoder_depth) == len(self.decoder_widths)
        require(same, "decoder_depth", "must have one entry for each of decoder_widths", self.decoder_depth)
        memory = 0 <= self.decoder_memory <= self.decoder_depth[0]
        require(memory, "decoder_memory", f"must be between 0 and {self.decoder_depth[0]}", self.decoder_memory)
        positive = min(self.encoder_width, *self.decoder_widths, *self.decoder_depth) >= 1
        require(positive, "encoder_width, decoder_widths, decoder_depth", "must be at least 1", self.decoder_widths)

    @property
    def compression(self) -> Compression:
        """Pixels of one token along time, rows and columns."""
        return Compression(self.temporal, self.spatial, self.spatial)


class Encoder(nn.Module):
    """Groups of frames to latents. It sees one cell and half a cell around it."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        width, half = config.encoder_width, config.spatial // 2
        self.fold = half
        self.patch = nn.Conv2d(3 * config.temporal * half * half, width, 3, padding=1)
        self.mix = ResidualBlock(width, width, kernel=1)
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.blocks = nn.Sequential(*(ResidualBlock(2 * width, 4 * width, kernel=1) for _ in range(2)))
        self.head = nn.Sequential(ChannelNorm(2 * width), nn.Conv2d(2 * width, config.quantizer.dim, 1))

    def forward(self, groups: torch.Tensor) -> torch.Tensor:
        """(B * t, temporal * 3, H, W) to (B * t, D, h, w)."""
        # Outside the picture its border goes on, as a still background does.
        patches = F.pixel_unshuffle(groups, self.fold)
        x = F.conv2d(F.pad(patches, (1, 1, 1, 1), mode="replicate"), self.patch.weight, self.patch.bias)
        return self.head(self.blocks(self.down(self.mix(F.silu(x)))))


class Decoder(nn.Module):
    """Codes to groups of frames. It sees neighbouring tokens and, through its temporal layers, the past."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = config.decoder_widths
        self.embed = nn.Conv2d(config.quantizer.dim, widths[0], 3, padding=1)
        self.temporal = nn.ModuleList(TemporalConv(widths[0]) for _ in range(config.decoder_memory))
        self.stages = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width, width, kernel=3) for _ in range(depth)))
            for width, depth in zip(widths, config.decoder_depth, strict=True)
        )
        self.ups = nn.ModuleList(Upsample(a, b) for a, b in itertools.pairwise(widths))
        self.patch = config.spatial >> (len(widths) - 1)
        self.norm = ChannelNorm(widths[-1])
        self.head = nn.Conv2d(widths[-1], 3 * config.temporal * self.patch**2, 3, padding=1)

    def forward(self, codes: torch.Tensor, frames: int, cache: ConvCache | None) -> tuple[torch.Tensor, ConvCache]:
        """codes (B * t, D, h, w) of `frames` = t latent frames to (B * t, temporal * 3, H, W), and the next cache."""
        x = self.embed(codes)
        pasts = []
        for index, temporal in enumerate(self.temporal):
            x, past = temporal(x, frames, None if cache is None else cache[index])
            pasts.append(past)
        for stage, up in zip(self.stages, [*self.ups, nn.Identity()], strict=True):
            x = up(stage(x))
        return F.pixel_shuffle(self.head(F.silu(self.norm(x))), self.patch), pasts


class VideoTokenizer(nn.Module):
    """A codec between clips and tokens. `compression`, `vocab_size` and `grid` are all that a language model needs."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = Quantizer(config.quantizer)
        self.decoder = Decoder(config)

    @property
    def compression(self) -> Compression:
        """Pixels of one token along time, rows and columns."""
        return self.config.compression

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return self.config.quantizer.vocab_size

    @property
    def memory(self) -> int:
        """Latent frames before its own that a decoded frame depends on."""
        return 2 * self.config.decoder_memory

    def grid(self, num_frames: int, height: int, width: int) -> TokenGrid:
        """The token grid of a clip; its sides must be multiples of the stride, its frames 1 + n * temporal."""
        c = self.compression
        fits = num_frames >= 1 and (num_frames - 1) % c.t == 0
        require(fits, "num_frames", f"must be 1 + a multiple of {c.t}", num_frames)
        for name, value, stride in (("height", height, c.h), ("width", width, c.w)):
            require(value >= stride and value % stride == 0, name, f"must be a multiple of {stride}", value)
        return TokenGrid(c.latent_frames(num_frames), height // c.h, width // c.w)

    def _group(self, frames_BTHWC: torch.Tensor, first: bool) -> torch.Tensor:
        """Frames to (B * t, temporal * 3, H, W) in [-1, 1]; frame 0 becomes a group of its copies."""
        x = frames_BTHWC
        x = x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x * 2 - 1
        if first:
            x = torch.cat([x[:, :1].expand(-1, self.config.temporal - 1, -1, -1, -1), x], 1)
        groups = x.unflatten(1, (-1, self.config.temporal)).permute(0, 1, 2, 5, 3, 4)
        return groups.flatten(2, 3).flatten(0, 1).to(self.encoder.patch.weight.dtype)

    def _ungroup(self, groups: torch.Tensor, latent_frames: int, first: bool) -> torch.Tensor:
        frames = groups.unflatten(1, (self.config.temporal, 3)).unflatten(0, (-1, latent_frames)).flatten(1, 2)
        frames = frames[:, self.config.temporal - 1 :] if first else frames
        return (frames.permute(0, 1, 3, 4, 2).float() + 1) / 2

    def _quantize(self, frames_BTHWC: torch.Tensor, first: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        latents = self.encoder(self._group(frames_BTHWC, first))
        codes, tokens, loss = self.quantizer(latents.flatten(2).transpose(1, 2))
        codes = codes.transpose(1, 2).unflatten(2, latents.shape[2:]).to(latents.dtype)
        batch = frames_BTHWC.shape[0]
        return codes, tokens.unflatten(1, latents.shape[2:]).unflatten(0, (batch, -1)), loss

    def encode(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        """Tokens (B, t, h, w) int64 of a clip (B, T, H, W, 3), uint8 or float in [0, 1]; see `grid` for its shape."""
        self.grid(*frames_BTHWC.shape[1:4])
        return self._quantize(frames_BTHWC, first=True)[1]

    def encode_chunk(self, frames_BTHWC: torch.Tensor, *, first: bool) -> torch.Tensor:
        """Tokens of the next frames of a clip: 1 + n * temporal of them when `first`, else n * temporal.

        The encoder looks at one latent frame at a time, so there is no state to carry.
        """
        extra = self.config.temporal - 1 if first else 0
        self.grid(frames_BTHWC.shape[1] + (0 if first else 1), *frames_BTHWC.shape[2:4])
        assert (frames_BTHWC.shape[1] + extra) % self.config.temporal == 0
        return self._quantize(frames_BTHWC, first)[1]

    def decode(self, tokens_Bthw: torch.Tensor) -> torch.Tensor:
        """The clip (B, T, H, W, 3) of tokens (B, t, h, w): float32, about [0, 1] (clamp before storing)."""
        return self.decode_chunk(tokens_Bthw, None)[0]

    def decode_chunk(self, tokens_Bthw: torch.Tensor, cache: ConvCache | None) -> tuple[torch.Tensor, ConvCache]:
        """Frames of the next latent frames, and the cache for those after them; None starts a clip."""
        batch, frames, h, w = tokens_Bthw.shape
        codes = self.quantizer.codes(tokens_Bthw.reshape(batch * frames, h * w))
        codes = codes.transpose(1, 2).unflatten(2, (h, w)).to(self.decoder.embed.weight.dtype)
        groups, pasts = self.decoder(codes, frames, cache)
        return self._ungroup(groups, frames, first=cache is None), pasts

    def forward(self, frames_BTHWC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reconstruction (B, T, H, W, 3), tokens (B, t, h, w) and the quantizer's loss: one training step's view."""
        grid = self.grid(*frames_BTHWC.shape[1:4])
        codes, tokens, loss = self._quantize(frames_BTHWC, first=True)
        groups, _ = self.decoder(codes, grid.t, None)
        return self._ungroup(groups, grid.t, first=True), tokens, loss


def load_tokenizer(folder: Path, *, device: str = "auto") -> VideoTokenizer:
    """The tokenizer in the folder of its training: tokenizer.json and tokenizer.safetensors.

    Raises:
        ReelmError: a file is missing, damaged, or of another shape.
    """
    config = from_dict(TokenizerConfig, read_json(folder / "tokenizer.json"), "tokenizer.json")
    tokenizer = VideoTokenizer(config)
    load_weights(tokenizer, folder / "tokenizer.safetensors")
    return tokenizer.to(pick_device(device)).eval().requires_grad_(False)
