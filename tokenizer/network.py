"""The two networks of a tokenizer: from groups of frames to latents, and from codes to groups of frames.

    latents, state = Encoder(config)(groups, frames=t, state=None)      # groups (B * t, temporal * 3, H, W)
    groups, state = Decoder(config)(codes, frames=t, state=None)        # codes (B * t, D, h, w)

A group is the frames of one latent frame, with frames and colours as channels. Convolutions are factorised: those over
space see one latent frame, those over time are causal and see one position. Norms are over the channels of one
position. So a stream gives the same result as a whole clip, and a tile with its halo the same as the whole picture.
"""

import itertools
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from .layers import ChannelNorm, ConvState, ResidualBlock, TemporalConv, Upsample
from .tokenizer_config import TokenizerConfig
from .wavelet import haar, inverse_haar


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
