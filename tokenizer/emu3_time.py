"""The layers of Emu3's tokenizer over time, on features (B, C, T, H, W) of the next frames.

The modules have the names that transformers gives them (models/emu3).
"""

import torch
import torch.nn.functional as F
from torch import nn

from .cosmos_layers import Stream

LOOKS_BACK = 2  # the frames before its own that a convolution over time reads


class TimeConv(nn.Module):
    """A convolution over time, and with a wide kernel over space: zeros stand before the clip and around a frame."""

    def __init__(self, channels: int, out_channels: int, kernel: tuple[int, int, int], step: int = 1) -> None:
        """Make the layer, which keeps every `step`-th frame."""
        super().__init__()
        side = kernel[1] // 2
        self.conv = nn.Conv3d(channels, out_channels, kernel, (step, 1, 1), (0, side, side))

    def forward(self, x: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Map features (B, C, T, H, W) of the next frames."""
        out: torch.Tensor = self.conv(stream.extend(x, LOOKS_BACK, zeros=True))
        return out


class TimeBlock(nn.Module):
    """The residual block x + conv(silu(norm(conv(silu(norm(x)))))) over time, with norms by fixed statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm3d(channels), TimeConv(channels, channels, (3, 3, 3))
        self.norm2, self.conv2 = nn.BatchNorm3d(channels), TimeConv(channels, channels, (3, 3, 3))

    def forward(self, x: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Map features (B, C, T, H, W) of the next frames."""
        hidden = self.conv1(F.silu(self.norm1(x)), stream)
        return x + self.conv2(F.silu(self.norm2(hidden)), stream)
