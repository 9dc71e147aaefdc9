"""Layers of the tokenizer: norms, residual blocks, upsampling and causal convolutions over latent frames.

Features are (B * t, C, h, w). Spatial convolutions see each latent frame alone, and `TemporalConv` alone looks back in
time. Norms are over the channels of one position, so that nothing leaks along time or space, and decoding a stream
gives the same result as decoding a clip at once.
"""

import torch
import torch.nn.functional as F
from torch import nn

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
