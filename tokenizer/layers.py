"""Layers of the tokenizer: per-position norms, residual blocks and causal convolutions over latent frames with a cache.

Features are (B * t, C, h, w): a picture's convolutions see each latent frame alone, and `TemporalConv` looks back in
time. Norms are over the channels of one position, so nothing leaks along time or space, and a stream equals one shot.
"""

import torch
import torch.nn.functional as F
from torch import nn

# For each temporal layer of an encoder or decoder, its inputs of the last two latent frames: (B, 2, C, h, w).
ConvCache = list[torch.Tensor]


class ChannelNorm(nn.Module):
    """Root-mean-square norm over the channels of each position (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B * t, C, h, w) to the same shape."""
        scale = torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-6).to(x.dtype)
        return x * scale * self.weight[:, None, None]


class ResidualBlock(nn.Module):
    """x + conv1x1(silu(conv(norm(x)))), the first convolution of `kernel` 1 (one position) or 3 (its neighbours)."""

    def __init__(self, channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.expand = nn.Conv2d(channels, hidden, kernel, padding=kernel // 2)
        self.project = nn.Conv2d(hidden, channels, 1)
        nn.init.zeros_(self.project.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B * t, C, h, w) to the same shape."""
        return x + self.project(F.silu(self.expand(self.norm(x))))


class TemporalConv(nn.Module):
    """x + a causal convolution over this and the two earlier latent frames of each position.

    Before frame 0 there is zero or, where `still`, frame 0 itself.
    """

    def __init__(self, channels: int, still: bool = False) -> None:
        super().__init__()
        self.still = still
        self.norm = ChannelNorm(channels)
        self.mix = nn.Conv2d(3 * channels, channels, 1)
        nn.init.zeros_(self.mix.weight)

    def forward(self, x: torch.Tensor, frames: int, past: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """x (B * t, C, h, w) of `frames` = t latent frames; past (B, 2, C, h, w) or None at the start.

        Returns the output and the past of the next call.
        """
        now = self.norm(x).unflatten(0, (-1, frames))
        if past is None:
            first = now[:, :1].expand(-1, 2, -1, -1, -1)
            past = first if self.still else torch.zeros_like(first)
        line = torch.cat([past, now], 1)
        stacked = torch.cat([line[:, :frames], line[:, 1 : frames + 1], line[:, 2:]], 2)
        return x + self.mix(stacked.flatten(0, 1)), line[:, -2:]


class Upsample(nn.Module):
    """Twice the height and width: a 1x1 convolution, then depth to space."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 4 * out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B * t, C, h, w) to (B * t, C', 2h, 2w)."""
        return F.pixel_shuffle(self.expand(x), 2)
