"""A baseline of the tokenizer's benchmark: a network of the shape of NVIDIA's Cosmos discrete video tokenizers.

    baseline = CosmosShape(Compression(4, 8, 8))        # random weights
    tokens_Bthw = baseline.encode(frames_BTHW3)         # as `VideoTokenizer`: uint8 or float in [0, 1], T = 1 + 4 n
    frames_BTHW3 = baseline.decode(tokens_Bthw)         # float32, about [0, 1]

It is a network of equal shape and cost, written here from published facts (NVIDIA 2025, arXiv 2501.03575, and the
sizes in the configs of github.com/NVIDIA/Cosmos-Tokenizer); it is neither NVIDIA's code nor its weights, and it shows
nothing of their quality. A test holds its parameters and GFLOPs against those of the original DV4x8x8.

- A Haar transform of patches of 4 frames x 4 x 4 pixels comes first and last: 192 channels.
- Three levels of 256, 512 and 512 channels; residual blocks of norm, SiLU and convolution, twice: 2 a level in the
  encoder, 3 in the decoder. A 3x3x3 convolution is one over the picture (1x3x3), then a causal one over time (3x1x1).
- A middle of two such blocks, and between them attention of one head over the picture, then causal over time.
- What remains of the compression is halved after the first levels, by a convolution with stride beside a mean, and
  doubled after the first levels of the decoder.
- 16 channels, of which a 1x1x1 convolution makes 6 for FSQ with 8 x 8 x 8 x 5 x 5 x 5 levels.
"""

import itertools
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from ..core.errors import require
from ..core.shapes import Compression
from ..tokenizer.quantizer import Quantizer, QuantizerConfig
from ..tokenizer.wavelet import haar, inverse_haar

PATCH = 4  # frames, rows and columns of pixels
CHANNELS = 128
WIDTHS = (2, 4, 4)  # of the levels, in CHANNELS
BLOCKS = 2  # of a level of the encoder
LATENT = 16
LEVELS = (8, 8, 8, 5, 5, 5)
TEMPORAL, SPATIAL = (4, 8), (8, 16)  # what was published


class CosmosShape(nn.Module):
    """A codec between clips and tokens whose network has the shape of Cosmos's of the same compression."""

    def __init__(self, compression: Compression, channels: int = CHANNELS) -> None:
        """Random weights.

        Args:
            compression: 4 or 8 frames x 8 or 16 rows and columns.
            channels: fewer than the published ones make a small network for tests.
        """
        super().__init__()
        require(has_peer(compression), "compression", "must be one of 4x8x8, 8x8x8, 4x16x16, 8x16x16", compression)
        self.encoder = cosmos_encoder(compression, channels)
        self.quantizer = Quantizer(QuantizerConfig(levels=LEVELS))
        self.decoder = cosmos_decoder(compression, channels)

    def encode(self, frames_BTHW3: torch.Tensor) -> torch.Tensor:
        """Tokens (B, t, h, w) int64 of a clip (B, T, H, W, 3), uint8 or float in [0, 1]."""
        x = frames_BTHW3
        x = x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x * 2 - 1
        x = torch.cat([x[:, :1].expand(-1, PATCH - 1, -1, -1, -1), x], 1).movedim(-1, 1)
        blocks = x.unflatten(4, (-1, PATCH)).unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
        patches = haar(blocks, dims=(3, 5, 7)).permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)
        latents = self.encoder(patches.to(next(self.encoder.parameters()).dtype))
        _, tokens, _ = self.quantizer(latents.flatten(2).transpose(1, 2))
        return tokens.unflatten(1, latents.shape[2:])

    def decode(self, tokens_Bthw: torch.Tensor) -> torch.Tensor:
        """The clip (B, T, H, W, 3) of tokens (B, t, h, w): float32, about [0, 1]."""
        codes = self.quantizer.codes(tokens_Bthw.flatten(1)).transpose(1, 2).unflatten(2, tokens_Bthw.shape[1:])
        patches = self.decoder(codes.to(next(self.decoder.parameters()).dtype))
        blocks = patches.unflatten(1, (3, PATCH, PATCH, PATCH)).permute(0, 1, 5, 2, 6, 3, 7, 4)
        x = inverse_haar(blocks, dims=(3, 5, 7)).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return (x[:, :, PATCH - 1 :].movedim(1, -1).float() + 1) / 2


def has_peer(compression: Compression) -> bool:
    """Whether a Cosmos tokenizer of this compression was published, or has a shape that follows from those."""
    return compression.t in TEMPORAL and compression.h in SPATIAL and compression.w == compression.h


def cosmos_encoder(compression: Compression, channels: int = CHANNELS) -> nn.Sequential:
    """Patches (B, 192, t', h', w') to latents (B, 6, t, h, w)."""
    temporal, spatial = _halvings(compression)
    widths = [channels * width for width in WIDTHS]
    layers: list[nn.Module] = [_factorised(3 * PATCH**3, channels)]
    for level, (before, width) in enumerate(itertools.pairwise([channels, *widths])):
        layers += _residuals(before, width, BLOCKS)
        if level + 1 < len(widths):
            layers.append(_Down(width, in_time=level < temporal, in_picture=level < spatial))
    to_codes = nn.Conv3d(LATENT, len(LEVELS), 1)
    return nn.Sequential(*layers, *_middle(widths[-1]), *_head(widths[-1], LATENT), to_codes)


def cosmos_decoder(compression: Compression, channels: int = CHANNELS) -> nn.Sequential:
    """Codes (B, 6, t, h, w) to patches (B, 192, t', h', w')."""
    temporal, spatial = _halvings(compression)
    widths = [channels * width for width in reversed(WIDTHS)]
    from_codes = nn.Conv3d(len(LEVELS), LATENT, 1)
    layers: list[nn.Module] = [from_codes, _factorised(LATENT, widths[0]), *_middle(widths[0])]
    for level, (before, width) in enumerate(itertools.pairwise([widths[0], *widths])):
        layers += _residuals(before, width, BLOCKS + 1)
        if level + 1 < len(widths):
            # Time is doubled one level later than the picture could be, and never without it.
            in_time = 0 < level <= temporal
            in_picture = in_time or (level < spatial and spatial > temporal)
            layers.append(_Up(width, in_time=in_time, in_picture=in_picture))
    return nn.Sequential(*layers, *_head(widths[-1], 3 * PATCH**3))


def _halvings(compression: Compression) -> tuple[int, int]:
    """How often the time and the picture are halved beyond the patches."""
    return (compression.t // PATCH).bit_length() - 1, (compression.h // PATCH).bit_length() - 1


def _factorised(channels: int, out_channels: int) -> nn.Sequential:
    """Over the picture, then over time."""
    return nn.Sequential(
        _CausalConv(channels, out_channels, (1, 3, 3)), _CausalConv(out_channels, out_channels, (3, 1, 1))
    )


def _residuals(channels: int, out_channels: int, count: int) -> Iterable[nn.Module]:
    return [_Residual(channels if index == 0 else out_channels, out_channels) for index in range(count)]


def _middle(channels: int) -> Iterable[nn.Module]:
    attentions = _Attention(channels, in_time=False), _Attention(channels, in_time=True)
    return [_Residual(channels, channels), *attentions, _Residual(channels, channels)]


def _head(channels: int, out_channels: int) -> Iterable[nn.Module]:
    return [_FrameNorm(channels), nn.SiLU(), _factorised(channels, out_channels)]


class _CausalConv(nn.Conv3d):
    """A convolution that keeps the shape and sees no later frame; before frame 0 the picture stood still."""

    def __init__(self, channels: int, out_channels: int, kernel: tuple[int, int, int], steps: int = 1) -> None:
        padding = (0, kernel[1] // 2, kernel[2] // 2)
        super().__init__(channels, out_channels, kernel, stride=(steps, 1, 1), padding=padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(_stand_still(x, self.kernel_size[0] - 1))


def _stand_still(x: torch.Tensor, frames: int) -> torch.Tensor:
    return torch.cat([x[:, :, :1].expand(-1, -1, frames, -1, -1), x], 2) if frames else x


class _FrameNorm(nn.GroupNorm):
    """A norm of each frame over all its channels and positions."""

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
    """Attention of one head: of a frame's positions to one another, or of a position to itself in the past."""

    def __init__(self, channels: int, in_time: bool) -> None:
        super().__init__()
        self.norm, self.in_time = _FrameNorm(channels), in_time
        self.inputs = nn.Conv3d(channels, 3 * channels, 1)
        self.out = nn.Conv3d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        order = (0, 3, 4, 2, 1) if self.in_time else (0, 2, 3, 4, 1)
        inputs = self.inputs(self.norm(x)).permute(order)
        shape = inputs.shape
        q_MSD, k_MSD, v_MSD = inputs.reshape(-1, shape[3] if self.in_time else shape[2] * shape[3], shape[4]).chunk(
            3, 2
        )
        scores_MSS = q_MSD @ k_MSD.transpose(1, 2) * q_MSD.shape[2] ** -0.5
        if self.in_time:
            later_SS = torch.ones_like(scores_MSS[0], dtype=torch.bool).triu(1)
            scores_MSS = scores_MSS.masked_fill(later_SS, float("-inf"))
        seen = (scores_MSS.softmax(2) @ v_MSD).view(*shape[:4], -1)
        return x + self.out(seen.permute([order.index(axis) for axis in range(5)]))


class _Resample(nn.Module):
    """The layers of both directions; those that a compression leaves idle are there as well, as in the original."""

    def __init__(self, channels: int, picture: nn.Conv3d, in_time: bool, in_picture: bool) -> None:
        super().__init__()
        self.in_time, self.in_picture = in_time, in_picture
        self.picture = picture
        self.time = _CausalConv(channels, channels, (3, 1, 1), steps=2 if picture.stride[1] == 2 else 1)
        self.mix = nn.Conv3d(channels, channels, 1)


class _Down(_Resample):
    """Half the height and width, then half the frames; where neither is asked for, the features stay as they are."""

    def __init__(self, channels: int, in_time: bool, in_picture: bool) -> None:
        picture = nn.Conv3d(channels, channels, (1, 3, 3), stride=(1, 2, 2))
        super().__init__(channels, picture, in_time, in_picture)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.in_picture:
            halved = F.avg_pool2d(x.flatten(1, 2), 2).unflatten(1, x.shape[1:3])
            x = self.picture(F.pad(x, (0, 1, 0, 1))) + halved
        if self.in_time:
            halved = F.avg_pool2d(_stand_still(x, 1).flatten(3), (2, 1)).unflatten(3, x.shape[3:])
            x = self.time(x) + halved
        return self.mix(x) if self.in_time or self.in_picture else x


class _Up(_Resample):
    """Twice the frames (but for frame 0), then twice the height and width; where neither is asked for, the same."""

    def __init__(self, channels: int, in_time: bool, in_picture: bool) -> None:
        super().__init__(channels, _CausalConv(channels, channels, (1, 3, 3)), in_time, in_picture)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.in_time:
            x = x.repeat_interleave(2, 2)[:, :, 1:]
            x = self.time(x) + x
        if self.in_picture:
            x = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
            x = self.picture(x) + x
        return self.mix(x) if self.in_time or self.in_picture else x
