"""The two networks of a tokenizer, and their layers.

    latents, state = Encoder(config)(groups, frames=t, state=None)      # groups (B * t, temporal * 3, H, W)
    groups, state = Decoder(config)(codes, frames=t, state=None)        # codes (B * t, D, h, w)

A group is the frames of one latent frame, with frames and colours as channels; features are (B * t, C, h, w).
Convolutions are factorised: those over space see one latent frame, and `TemporalConv` alone looks back in time, at one
position. Norms are over the channels of one position. So a stream gives the same result as a whole clip, and a tile
with its halo the same as the whole picture.
"""

import itertools
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from .tokenizer_config import TokenizerConfig
from .wavelet import haar, inverse_haar

# For each temporal layer of an encoder or decoder, its inputs of the last two latent frames: (B, 2, C, h, w).
ConvState = list[torch.Tensor]


class ChannelNorm(nn.Module):
    """Root-mean-square norm over the channels of each position (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map features (B * t, C, h, w) to features of the same shape."""
        scale = torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-6).to(x.dtype)
        return x * scale * self.weight[:, None, None]


class ResidualBlock(nn.Module):
    """The residual block x + conv1x1(silu(conv(norm(x)))); `kernel` 1 or 3 is the size of the first convolution."""

    def __init__(self, channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.expand = nn.Conv2d(channels, hidden, kernel, padding=kernel // 2)
        self.project = nn.Conv2d(hidden, channels, 1)
        nn.init.zeros_(self.project.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map features (B * t, C, h, w) to features of the same shape."""
        return x + self.project(F.silu(self.expand(self.norm(x))))


class TemporalConv(nn.Module):
    """The residual layer x + conv(norm(x)), a causal convolution over a latent frame and the two before it.

    Frame 0 is preceded by zeros or, with `repeat_first`, by copies of itself.
    """

    def __init__(self, channels: int, repeat_first: bool = False) -> None:
        super().__init__()
        self.repeat_first = repeat_first
        self.norm = ChannelNorm(channels)
        self.mix = nn.Conv2d(3 * channels, channels, 1)
        nn.init.zeros_(self.mix.weight)

    def forward(self, x: torch.Tensor, frames: int, past: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the layer to the next latent frames of each clip.

        Args:
            x: The features (B * t, C, h, w).
            frames: The number t of latent frames.
            past: The normalised inputs (B, 2, C, h, w) of the two latent frames before; None at the start of a clip.

        Returns:
            The output, shaped as `x`, and the `past` of the next call.
        """
        current = self.norm(x).unflatten(0, (-1, frames))
        if past is None:
            first = current[:, :1].expand(-1, 2, -1, -1, -1)
            past = first if self.repeat_first else torch.zeros_like(first)
        sequence = torch.cat([past, current], 1)
        stacked = torch.cat([sequence[:, :frames], sequence[:, 1 : frames + 1], sequence[:, 2:]], 2)
        return x + self.mix(stacked.flatten(0, 1)), sequence[:, -2:]


class Upsample(nn.Module):
    """A layer that doubles height and width: a 1x1 convolution, then a pixel shuffle."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 4 * out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map features (B * t, C, h, w) to (B * t, C', 2 h, 2 w)."""
        return F.pixel_shuffle(self.expand(x), 2)


class Encoder(nn.Module):
    """The network from groups of frames to latents.

    A latent depends on the pixels of its own token, on those within half a token around it, and on the further tokens
    and latent frames that the config adds.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        width, half = config.encoder_width, config.spatial // 2
        self.patch_size, self.wavelet = half, config.front == "haar"
        self.patch = nn.Conv2d(3 * config.temporal * half * half, width, 3, padding=1)
        self.mix = ResidualBlock(width, width, kernel=1)
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        # Frame 0 is repeated before the clip, so that what stands still has the same tokens from the start.
        self.temporal = nn.ModuleList(TemporalConv(2 * width, repeat_first=True) for _ in range(config.encoder_memory))
        self.blocks = nn.ModuleList(
            ResidualBlock(2 * width, 2 * width, kernel=3)
            if index < config.encoder_spread
            else ResidualBlock(2 * width, 4 * width, kernel=1)
            for index in range(config.encoder_depth)
        )
        self.head = nn.Sequential(ChannelNorm(2 * width), nn.Conv2d(2 * width, config.quantizer.dim, 1))

    def forward(self, groups: torch.Tensor, frames: int, state: ConvState | None) -> tuple[torch.Tensor, ConvState]:
        """Return latents (B * t, D, h, w) of groups (B * t, temporal * 3, H, W), t = `frames`, and the next state."""
        patches = F.pixel_unshuffle(groups, self.patch_size)
        if self.wavelet:
            blocks = patches.unflatten(1, (-1, 3, self.patch_size, self.patch_size))
            patches = haar(blocks, dims=(1, 3, 4)).flatten(1, 4)
        # Padding repeats the border pixels, so that a still background stays the same at the border.
        x = F.conv2d(F.pad(patches, (1, 1, 1, 1), mode="replicate"), self.patch.weight, self.patch.bias)
        x = self.down(self.mix(F.silu(x)))
        x, next_state = _alternate(x, self.temporal, self.blocks.children(), frames, state)
        return self.head(x), next_state


class Decoder(nn.Module):
    """The network from codes to groups of frames: it sees neighbouring tokens and, by its temporal layers, the past."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = config.decoder_widths
        self.wavelet, self.group = config.front == "haar", config.temporal
        self.embed = nn.Conv2d(config.quantizer.dim, widths[0], 3, padding=1)
        self.temporal = nn.ModuleList(TemporalConv(widths[0]) for _ in range(config.decoder_memory))
        self.stages = nn.ModuleList(
            nn.ModuleList(ResidualBlock(width, width, kernel=3) for _ in range(depth))
            for width, depth in zip(widths, config.decoder_depth, strict=True)
        )
        self.ups = nn.ModuleList(Upsample(a, b) for a, b in itertools.pairwise(widths))
        self.patch_size = config.spatial >> (len(widths) - 1)
        self.norm = ChannelNorm(widths[-1])
        self.head = nn.Conv2d(widths[-1], 3 * config.temporal * self.patch_size**2, 3, padding=1)

    def forward(self, codes: torch.Tensor, frames: int, state: ConvState | None) -> tuple[torch.Tensor, ConvState]:
        """Return groups (B * t, temporal * 3, H, W) of codes (B * t, D, h, w), t = `frames`, and the next state."""
        x, next_state = _alternate(self.embed(codes), self.temporal, self.stages[0].children(), frames, state)
        for up, stage in zip(self.ups, itertools.islice(self.stages, 1, None), strict=True):
            x = up(x)
            for block in stage.children():
                x = block(x)
        patches = self.head(F.silu(self.norm(x)))
        if self.wavelet:
            blocks = patches.unflatten(1, (self.group, 3, self.patch_size, self.patch_size))
            patches = inverse_haar(blocks, dims=(1, 3, 4)).flatten(1, 4)
        return F.pixel_shuffle(patches, self.patch_size), next_state


def _alternate(
    x: torch.Tensor, temporal: nn.ModuleList, blocks: Iterable[nn.Module], frames: int, state: ConvState | None
) -> tuple[torch.Tensor, ConvState]:
    """Apply a temporal layer before each of the first blocks, as long as there are temporal layers."""
    next_state: ConvState = []
    for index, block in enumerate(blocks):
        if index < len(temporal):
            x, past = temporal[index](x, frames, None if state is None else state[index])
            next_state.append(past)
        x = block(x)
    return x, next_state
