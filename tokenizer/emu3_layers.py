"""The layers of Emu3's tokenizer over space. The modules have the names that transformers gives them (models/emu3).

They work on single frames (B, C, H, W). In the decoder, norms are scaled and shifted by the codes at each place
(spatial norm: Zheng et al. 2022, arXiv 2209.09002).
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from .emu3_config import GROUPS

EPSILON = 1e-6


class SpatialNorm(nn.Module):
    """A group norm of a frame that is scaled and shifted at each place by the code there."""

    def __init__(self, channels: int, code_channels: int) -> None:
        super().__init__()
        self.norm_layer = nn.GroupNorm(GROUPS, channels, eps=EPSILON)
        self.conv_y, self.conv_b = (nn.Conv2d(code_channels, channels, 1) for _ in range(2))

    def forward(self, x_BCHW: torch.Tensor, codes_BDhw: torch.Tensor) -> torch.Tensor:
        """Map features to features of the same shape; a code stands for the places below it."""
        codes = F.interpolate(codes_BDhw, size=x_BCHW.shape[-2:], mode="nearest")
        out: torch.Tensor = self.norm_layer(x_BCHW) * self.conv_y(codes) + self.conv_b(codes)
        return out


class FrameGroupNorm(nn.GroupNorm):
    """A group norm of a frame, which reads no codes."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels, eps=EPSILON)

    def forward(self, x_BCHW: torch.Tensor, codes_BDhw: torch.Tensor | None = None) -> torch.Tensor:
        """Map features to features of the same shape."""
        return super().forward(x_BCHW)


def frame_norm(channels: int, code_channels: int | None) -> nn.Module:
    """Return the norm of the encoder (None), or of a decoder that has codes of so many channels."""
    return FrameGroupNorm(channels) if code_channels is None else SpatialNorm(channels, code_channels)


class FrameBlock(nn.Module):
    """The residual block shortcut(x) + conv(silu(norm(conv(silu(norm(x)))))) of a frame."""

    def __init__(self, channels: int, out_channels: int, code_channels: int | None) -> None:
        super().__init__()
        self.norm1, self.conv1 = frame_norm(channels, code_channels), nn.Conv2d(channels, out_channels, 3, 1, 1)
        self.norm2, self.conv2 = frame_norm(out_channels, code_channels), nn.Conv2d(out_channels, out_channels, 3, 1, 1)
        self.nin_shortcut = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else None

    def forward(self, x_BCHW: torch.Tensor, codes_BDhw: torch.Tensor | None) -> torch.Tensor:
        """Map features of frames."""
        hidden = self.conv1(F.silu(self.norm1(x_BCHW, codes_BDhw)))
        hidden = self.conv2(F.silu(self.norm2(hidden, codes_BDhw)))
        return hidden + (x_BCHW if self.nin_shortcut is None else self.nin_shortcut(x_BCHW))


class FrameAttention(nn.Module):
    """Attention with one head over the positions of a frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Map features, already normalised, to features of the same shape."""
        flat = x_BCHW.flatten(2).transpose(1, 2)
        found = F.scaled_dot_product_attention(self.q_proj(flat), self.k_proj(flat), self.v_proj(flat))
        out: torch.Tensor = self.out_proj(found)
        return out.transpose(1, 2).unflatten(2, x_BCHW.shape[2:])


class MiddleBlock(nn.Module):
    """Two residual blocks of a frame with attention between them."""

    def __init__(self, channels: int, code_channels: int | None) -> None:
        super().__init__()
        self.block_1 = FrameBlock(channels, channels, code_channels)
        self.attn_1, self.attn_norm = FrameAttention(channels), frame_norm(channels, code_channels)
        self.block_2 = FrameBlock(channels, channels, code_channels)

    def forward(self, x_BCHW: torch.Tensor, codes_BDhw: torch.Tensor | None) -> torch.Tensor:
        """Map features of frames."""
        x_BCHW = self.block_1(x_BCHW, codes_BDhw)
        x_BCHW = x_BCHW + self.attn_1(self.attn_norm(x_BCHW, codes_BDhw))
        out: torch.Tensor = self.block_2(x_BCHW, codes_BDhw)
        return out


class Resampled(nn.Module):
    """Twice or half the rows and columns, and a convolution."""

    def __init__(self, channels: int, *, larger: bool) -> None:
        super().__init__()
        self._larger = larger
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1) if larger else nn.Conv2d(channels, channels, 3, 2)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Map features of frames."""
        if self._larger:
            x_BCHW = F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest")
        else:
            x_BCHW = F.pad(x_BCHW, (0, 1, 0, 1))  # the published code's, at the right and the bottom alone
        out: torch.Tensor = self.conv(x_BCHW)
        return out


class Level(nn.Module):
    """The blocks of one resolution, perhaps each with attention after it, and the way to the next one."""

    def __init__(self, channels: list[int], code_channels: int | None, *, attends: bool, resampled: str | None) -> None:
        """Make the blocks from each of these channels to the next.

        Args:
            channels: The channels before the first block and after each one.
            code_channels: The channels of codes, in the decoder.
            attends: Whether attention comes after each block.
            resampled: The name of the layer to the next resolution, "upsample" or "downsample"; None at the last one.
        """
        super().__init__()
        pairs = list(itertools.pairwise(channels))
        self.block = nn.ModuleList(FrameBlock(before, after, code_channels) for before, after in pairs)
        self.attn = nn.ModuleList(FrameAttention(after) for _, after in pairs if attends)
        self.attn_norms = nn.ModuleList(frame_norm(after, code_channels) for _, after in pairs if attends)
        self._resampled = resampled
        if resampled is not None:
            self.add_module(resampled, Resampled(channels[-1], larger=resampled == "upsample"))

    def forward(self, x_BCHW: torch.Tensor, codes_BDhw: torch.Tensor | None) -> torch.Tensor:
        """Map features of frames."""
        for index, block in enumerate(self.block):
            x_BCHW = block(x_BCHW, codes_BDhw)
            if len(self.attn):
                x_BCHW = x_BCHW + self.attn[index](self.attn_norms[index](x_BCHW, codes_BDhw))
        return x_BCHW if self._resampled is None else self.get_submodule(self._resampled)(x_BCHW)
