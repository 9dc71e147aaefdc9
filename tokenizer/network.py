"""The two networks of a tokenizer: groups of frames to latents, and codes to groups of frames.

    latents, cache = Encoder(config)(groups, frames=t, cache=None)      # groups (B * t, temporal * 3, H, W)
    groups, cache = Decoder(config)(codes, frames=t, cache=None)        # codes (B * t, D, h, w)

Convolutions are factorised: over the picture each latent frame alone, over time each position alone and causal. Norms
are over the channels of one position. So a stream equals one shot, and a tile with its halo equals the whole picture.
"""

import itertools
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from .layers import ChannelNorm, ConvCache, ResidualBlock, TemporalConv, Upsample
from .tokenizer_config import TokenizerConfig
from .wavelet import haar, inverse_haar


class Encoder(nn.Module):
    """Groups of frames to latents. It sees one cell and half a cell around it, and what the config adds to that."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        width, half = config.encoder_width, config.spatial // 2
        self.fold, self.wavelet = half, config.front == "haar"
        self.patch = nn.Conv2d(3 * config.temporal * half * half, width, 3, padding=1)
        self.mix = ResidualBlock(width, width, kernel=1)
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        # Before frame 0 its picture stood still: what stands still has the same tokens from the first on.
        self.temporal = nn.ModuleList(TemporalConv(2 * width, still=True) for _ in range(config.encoder_memory))
        self.blocks = nn.ModuleList(
            ResidualBlock(2 * width, 2 * width, kernel=3)
            if index < config.encoder_spread
            else ResidualBlock(2 * width, 4 * width, kernel=1)
            for index in range(config.encoder_depth)
        )
        self.head = nn.Sequential(ChannelNorm(2 * width), nn.Conv2d(2 * width, config.quantizer.dim, 1))

    def forward(self, groups: torch.Tensor, frames: int, cache: ConvCache | None) -> tuple[torch.Tensor, ConvCache]:
        """(B * t, temporal * 3, H, W) of `frames` = t latent frames to (B * t, D, h, w), and the next cache."""
        patches = F.pixel_unshuffle(groups, self.fold)
        if self.wavelet:
            blocks = patches.unflatten(1, (-1, 3, self.fold, self.fold))
            patches = haar(blocks, dims=(1, 3, 4)).flatten(1, 4)
        # Outside the picture its border goes on, as a still background does.
        x = F.conv2d(F.pad(patches, (1, 1, 1, 1), mode="replicate"), self.patch.weight, self.patch.bias)
        x = self.down(self.mix(F.silu(x)))
        x, pasts = _alternate(x, self.temporal, self.blocks.children(), frames, cache)
        return self.head(x), pasts


class Decoder(nn.Module):
    """Codes to groups of frames. It sees neighbouring tokens and, through its temporal layers, the past."""

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
        self.patch = config.spatial >> (len(widths) - 1)
        self.norm = ChannelNorm(widths[-1])
        self.head = nn.Conv2d(widths[-1], 3 * config.temporal * self.patch**2, 3, padding=1)

    def forward(self, codes: torch.Tensor, frames: int, cache: ConvCache | None) -> tuple[torch.Tensor, ConvCache]:
        """codes (B * t, D, h, w) of `frames` = t latent frames to (B * t, temporal * 3, H, W), and the next cache."""
        x, pasts = _alternate(self.embed(codes), self.temporal, self.stages[0].children(), frames, cache)
        for up, stage in zip(self.ups, itertools.islice(self.stages, 1, None), strict=True):
            x = up(x)
            for block in stage.children():
                x = block(x)
        patches = self.head(F.silu(self.norm(x)))
        if self.wavelet:
            blocks = patches.unflatten(1, (self.group, 3, self.patch, self.patch))
            patches = inverse_haar(blocks, dims=(1, 3, 4)).flatten(1, 4)
        return F.pixel_shuffle(patches, self.patch), pasts


def _alternate(
    x: torch.Tensor, temporal: nn.ModuleList, blocks: Iterable[nn.Module], frames: int, cache: ConvCache | None
) -> tuple[torch.Tensor, ConvCache]:
    """Time, space, time, space, ... until the temporal layers are used up; the other blocks follow."""
    pasts: ConvCache = []
    for index, block in enumerate(blocks):
        if index < len(temporal):
            x, past = temporal[index](x, frames, None if cache is None else cache[index])
            pasts.append(past)
        x = block(x)
    return x, pasts
