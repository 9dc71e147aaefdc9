"""A baseline for the tokenizer benchmark: a network with the shape of NVIDIA's Cosmos discrete video tokenizers.

    baseline = CosmosShape(Compression(4, 8, 8))        # random weights
    tokens_Bthw = baseline.encode(frames_BTHW3)         # uint8 or float in [0, 1], T = 1 + 4 n, as for `VideoTokenizer`
    frames_BTHW3 = baseline.decode(tokens_Bthw)         # float32, about [0, 1]

The network has the shape and cost of the original. It was written from published facts (NVIDIA 2025, arXiv 2501.03575,
and the sizes in the configs of github.com/NVIDIA/Cosmos-Tokenizer); it contains neither NVIDIA's code nor its weights,
and says nothing about their quality. A test compares its parameters and GFLOPs with those of the original DV4x8x8.

- A Haar transform of patches of 4 frames x 4 x 4 pixels is the first layer, and its inverse the last: 192 channels.
- There are three levels of 256, 512 and 512 channels with 2 residual blocks each in the encoder and 3 in the decoder.
  A block is norm, SiLU and convolution, twice. A 3x3x3 convolution is factorized into a spatial one (1x3x3) and a
  causal temporal one (3x1x1).
- The middle has two such blocks, with single-head spatial attention and causal temporal attention between them.
- The remaining factors of two of the compression are halvings after the first levels of the encoder, each a strided
  convolution plus a mean, and doublings after the first levels of the decoder.
- A 1x1x1 convolution projects 16 channels to 6, for FSQ with 8 x 8 x 8 x 5 x 5 x 5 levels.
"""

import itertools
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from ..core.errors import require
from ..core.layout import Compression
from ..tokenizer.quantizer import Quantizer, QuantizerConfig
from ..tokenizer.wavelet import haar, inverse_haar

PATCH = 4  # frames, rows and columns of pixels
CHANNELS = 128
WIDTHS = (2, 4, 4)  # channels of the levels, in units of CHANNELS
BLOCKS = 2  # residual blocks of a level of the encoder; the decoder has one more
LATENT = 16  # channels before the projection to codes
LEVELS = (8, 8, 8, 5, 5, 5)
TEMPORAL, SPATIAL = (4, 8), (8, 16)  # the published compressions


class CosmosShape(nn.Module):
    """A codec between clips and tokens, with the shape of the Cosmos tokenizer of the same compression."""

    def __init__(self, compression: Compression, channels: int = CHANNELS) -> None:
        """Make a network with random weights.

        Args:
            compression: The pixels per token: 4 or 8 frames x 8 or 16 rows and columns.
            channels: The base width; fewer than the published channels make a small network for tests.
        """
        super().__init__()
        require(is_supported(compression), "compression", "must be one of 4x8x8, 8x8x8, 4x16x16, 8x16x16", compression)
        self.encoder = cosmos_encoder(compression, channels)
        self.quantizer = Quantizer(QuantizerConfig(levels=LEVELS))
        self.decoder = cosmos_decoder(compression, channels)

    def encode(self, frames_BTHW3: torch.Tensor) -> torch.Tensor:
        """Encode clips (B, T, H, W, 3), uint8 or float in [0, 1], to tokens (B, t, h, w) int64."""
        x = frames_BTHW3
        x = x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x * 2 - 1
        x = torch.cat([x[:, :1].expand(-1, PATCH - 1, -1, -1, -1), x], 1).movedim(-1, 1)
        blocks = x.unflatten(4, (-1, PATCH)).unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
        patches = haar(blocks, dims=(3, 5, 7)).permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)
        latents = self.encoder(patches.to(next(self.encoder.parameters()).dtype))
        _, tokens, _ = self.quantizer(latents.flatten(2).transpose(1, 2))
        return tokens.unflatten(1, latents.shape[2:])

    def decode(self, tokens_Bthw: torch.Tensor) -> torch.Tensor:
        """Decode tokens (B, t, h, w) to clips (B, T, H, W, 3), float32, approximately in [0, 1]."""
        codes = self.quantizer.codes(tokens_Bthw.flatten(1)).transpose(1, 2).unflatten(2, tokens_Bthw.shape[1:])
        patches = self.decoder(codes.to(next(self.decoder.parameters()).dtype))
        blocks = patches.unflatten(1, (3, PATCH, PATCH, PATCH)).permute(0, 1, 5, 2, 6, 3, 7, 4)
        x = inverse_haar(blocks, dims=(3, 5, 7)).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return (x[:, :, PATCH - 1 :].movedim(1, -1).float() + 1) / 2


def is_supported(compression: Compression) -> bool:
    """Return whether Cosmos has a tokenizer of this compression: published, or of a shape that follows from those."""
    return compression.t in TEMPORAL and compression.h in SPATIAL and compression.w == compression.h


def cosmos_encoder(compression: Compression, channels: int = CHANNELS) -> nn.Sequential:
    """Make the encoder, from patches (B, 192, t', h', w') to latents (B, 6, t, h, w)."""
    temporal, spatial = _halvings(compression)
    widths = [channels * width for width in WIDTHS]
    layers: list[nn.Module] = [_factorized(3 * PATCH**3, channels)]
    for level, (before, width) in enumerate(itertools.pairwise([channels, *widths])):
        layers += _residuals(before, width, BLOCKS)
        if level + 1 < len(widths):
            layers.append(_Down(width, temporal=level < temporal, spatial=level < spatial))
    to_codes = nn.Conv3d(LATENT, len(LEVELS), 1)
    return nn.Sequential(*layers, *_middle(widths[-1]), *_head(widths[-1], LATENT), to_codes)


def cosmos_decoder(compression: Compression, channels: int = CHANNELS) -> nn.Sequential:
    """Make the decoder, from codes (B, 6, t, h, w) to patches (B, 192, t', h', w')."""
    temporal, spatial = _halvings(compression)
    widths = [channels * width for width in reversed(WIDTHS)]
    from_codes = nn.Conv3d(len(LEVELS), LATENT, 1)
    layers: list[nn.Module] = [from_codes, _factorized(LATENT, widths[0]), *_middle(widths[0])]
    for level, (before, width) in enumerate(itertools.pairwise([widths[0], *widths])):
        layers += _residuals(before, width, BLOCKS + 1)
        if level + 1 < len(widths):
            # The frames are doubled one level later than the pixels could be, and never without the pixels.
            up_temporal = 0 < level <= temporal
            up_spatial = up_temporal or (level < spatial and spatial > temporal)
            layers.append(_Up(width, temporal=up_temporal, spatial=up_spatial))
    return nn.Sequential(*layers, *_head(widths[-1], 3 * PATCH**3))


def _halvings(compression: Compression) -> tuple[int, int]:
    """Return how often the encoder halves the frames, and the height and width, after the patches."""
    return (compression.t // PATCH).bit_length() - 1, (compression.h // PATCH).bit_length() - 1


def _factorized(channels: int, out_channels: int) -> nn.Sequential:
    """Return a spatial convolution followed by a temporal one."""
    return nn.Sequential(
        _CausalConv(channels, out_channels, (1, 3, 3)), _CausalConv(out_channels, out_channels, (3, 1, 1))
    )


def _residuals(channels: int, out_channels: int, count: int) -> Iterable[nn.Module]:
    return [_Residual(channels if index == 0 else out_channels, out_channels) for index in range(count)]


def _middle(channels: int) -> Iterable[nn.Module]:
    attentions = _Attention(channels, temporal=False), _Attention(channels, temporal=True)
    return [_Residual(channels, channels), *attentions, _Residual(channels, channels)]


def _head(channels: int, out_channels: int) -> Iterable[nn.Module]:
    return [_FrameNorm(channels), nn.SiLU(), _factorized(channels, out_channels)]


class _CausalConv(nn.Conv3d):
    """A convolution that keeps the shape and is causal in time; frame 0 is repeated as padding before it."""

    def __init__(self, channels: int, out_channels: int, kernel: tuple[int, int, int], stride: int = 1) -> None:
        padding = (0, kernel[1] // 2, kernel[2] // 2)
        super().__init__(channels, out_channels, kernel, stride=(stride, 1, 1), padding=padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(_repeat_first(x, self.kernel_size[0] - 1))


def _repeat_first(x: torch.Tensor, frames: int) -> torch.Tensor:
    """Put so many copies of the first frame before the frames of (B, C, T, H, W)."""
    return torch.cat([x[:, :, :1].expand(-1, -1, frames, -1, -1), x], 2) if frames else x


class _FrameNorm(nn.GroupNorm):
    """A normalization of each frame over all of its channels and positions."""

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), -1)).transpose(1, 2)


class _Residual(nn.Module):
    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_head(channels, out_channels), *_head(out_channels, out_channels))
        self.shortcut = nn.Identity() if channels == out_channels else nn.Conv3d(channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.layers(x)


class _Attention(nn.Module):
    """Single-head attention, either among the positions of a frame or causally over time at each position."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.norm, self.temporal = _FrameNorm(channels), temporal
        self.inputs = nn.Conv3d(channels, 3 * channels, 1)
        self.out = nn.Conv3d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        order = (0, 3, 4, 2, 1) if self.temporal else (0, 2, 3, 4, 1)
        inputs = self.inputs(self.norm(x)).permute(order)
        shape = inputs.shape
        length = shape[3] if self.temporal else shape[2] * shape[3]
        q_MSD, k_MSD, v_MSD = inputs.reshape(-1, length, shape[4]).chunk(3, 2)
        scores_MSS = q_MSD @ k_MSD.transpose(1, 2) * q_MSD.shape[2] ** -0.5
        if self.temporal:
            later_SS = torch.ones_like(scores_MSS[0], dtype=torch.bool).triu(1)
            scores_MSS = scores_MSS.masked_fill(later_SS, float("-inf"))
        mixed = (scores_MSS.softmax(2) @ v_MSD).view(*shape[:4], -1)
        return x + self.out(mixed.permute([order.index(axis) for axis in range(5)]))


class _Resample(nn.Module):
    """The layers that `_Down` and `_Up` share; as in the original, layers that a compression never uses exist too."""

    def __init__(self, channels: int, spatial_conv: nn.Conv3d, temporal: bool, spatial: bool) -> None:
        super().__init__()
        self.temporal, self.spatial = temporal, spatial
        self.spatial_conv = spatial_conv
        self.temporal_conv = _CausalConv(channels, channels, (3, 1, 1), stride=2 if spatial_conv.stride[1] == 2 else 1)
        self.mix = nn.Conv3d(channels, channels, 1)


class _Down(_Resample):
    """Halve the height and width, then the frames, as far as each is chosen; the input is unchanged without either."""

    def __init__(self, channels: int, temporal: bool, spatial: bool) -> None:
        spatial_conv = nn.Conv3d(channels, channels, (1, 3, 3), stride=(1, 2, 2))
        super().__init__(channels, spatial_conv, temporal, spatial)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.spatial:
            halved = F.avg_pool2d(x.flatten(1, 2), 2).unflatten(1, x.shape[1:3])
            x = self.spatial_conv(F.pad(x, (0, 1, 0, 1))) + halved
        if self.temporal:
            halved = F.avg_pool2d(_repeat_first(x, 1).flatten(3), (2, 1)).unflatten(3, x.shape[3:])
            x = self.temporal_conv(x) + halved
        return self.mix(x) if self.temporal or self.spatial else x


class _Up(_Resample):
    """Double the frames (except frame 0), then the height and width; the input is unchanged without either."""

    def __init__(self, channels: int, temporal: bool, spatial: bool) -> None:
        super().__init__(channels, _CausalConv(channels, channels, (1, 3, 3)), temporal, spatial)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.temporal:
            x = x.repeat_interleave(2, 2)[:, :, 1:]
            x = self.temporal_conv(x) + x
        if self.spatial:
            x = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
            x = self.spatial_conv(x) + x
        return self.mix(x) if self.temporal or self.spatial else x
