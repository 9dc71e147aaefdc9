"""The layers of Cosmos' networks, and what they remember of the frames before.

    stream = Stream(None)                                   # at the start of a clip; later Stream(state)
    x = block(x, stream)                                    # features (B, C, T, H, W) of the next frames
    state = stream.next                                     # for the frames that follow

Convolutions are over space, then over time; attention is over the positions of a frame, or the frames of a position.
The modules have the names of the published weights.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

CosmosState = list[torch.Tensor]


class Stream:
    """What the layers of a network remember of the frames before, in the order in which they ask for it.

    Attributes:
        starts: Whether the next frame is frame 0 of its clip.
        next: What the layers will ask for at the frames that follow.
    """

    def __init__(self, state: CosmosState | None) -> None:
        self.starts, self.next = state is None, list[torch.Tensor]()
        self._past: Iterator[torch.Tensor] = iter(state or ())

    def extend(self, x: torch.Tensor, frames: int, *, zeros: bool = False) -> torch.Tensor:
        """Return `x` after so many frames before it; frame 0 is preceded by copies of itself, or by zeros."""
        if self.starts:
            past = x[:, :, :1].expand(-1, -1, frames, -1, -1)
            past = torch.zeros_like(past) if zeros else past
        else:
            past = next(self._past)
        extended = torch.cat([past, x], 2)
        self.next.append(extended[:, :, extended.shape[2] - frames :].clone())  # a view would keep all of it
        return extended

    def remember(self, x: torch.Tensor, frames: int, dim: int) -> torch.Tensor:
        """Return `x` after at most so many entries before it along a dimension, of which a clip begins with none."""
        extended = x if self.starts else torch.cat([next(self._past), x], dim)
        kept = min(frames, extended.shape[dim])
        self.next.append(extended.narrow(dim, extended.shape[dim] - kept, kept).clone())
        return extended


class CausalConv(nn.Module):
    """A convolution over a frame, with zeros around it, or over time; its `kernel` is (frames, rows, columns)."""

    def __init__(self, channels: int, out_channels: int, kernel: tuple[int, int, int], step: int = 1) -> None:
        """Make the layer, which with `step` 2 keeps every second row and column, or frame."""
        super().__init__()
        self._frames, spatial = kernel[0] - step if kernel[0] > 1 else 0, kernel[1] > 1
        stride = (1, step, step) if spatial else (step, 1, 1)
        padding = (0, 1, 1) if spatial and step == 1 else 0
        self.conv3d = nn.Conv3d(channels, out_channels, kernel, stride, padding)

    def forward(self, x: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Map features (B, C, T, H, W) of the next frames."""
        return self.conv3d(stream.extend(x, self._frames) if self._frames else x)


class Factorized(nn.ModuleList):
    """A 3x3 convolution over space, then one over a frame and the two before it."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(
            [CausalConv(channels, out_channels, (1, 3, 3)), CausalConv(out_channels, out_channels, (3, 1, 1))]
        )

    def forward(self, x: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Map features (B, C, T, H, W) of the next frames."""
        for convolution in self:
            x = convolution(x, stream)
        return x


class FrameNorm(nn.Module):
    """Group norm with one group: over the channels and positions of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map features (B, C, T, H, W) to features of the same shape."""
        frames = x.transpose(1, 2)
        return self.norm(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)


class CosmosBlock(nn.Module):
    """The residual block shortcut(x) + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = FrameNorm(channels), Factorized(channels, out_channels)
        self.norm2, self.conv2 = FrameNorm(out_channels), Factorized(out_channels, out_channels)
        self.nin_shortcut = CausalConv(channels, out_channels, (1, 1, 1)) if channels != out_channels else None

    def forward(self, x: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Map features (B, C, T, H, W) of the next frames."""
        hidden = self.conv1(F.silu(self.norm1(x)), stream)
        hidden = self.conv2(F.silu(self.norm2(hidden)), stream)
        return hidden + (x if self.nin_shortcut is None else self.nin_shortcut(x, stream))


class Attention(nn.Module):
    """Attention with one head and a residual connection: over the positions of a frame, or the frames of a position."""

    def __init__(self, channels: int, frames: int | None = None) -> None:
        """Make the layer; `frames` is the number of frames that a position sees, or None to see its own frame."""
        super().__init__()
        self._frames = frames
        self.norm = FrameNorm(channels)
        self.q, self.k, self.v = (CausalConv(channels, channels, (1, 1, 1)) for _ in range(3))
        self.proj_out = CausalConv(channels, channels, (1, 1, 1))

    def forward(self, x: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Map features (B, C, T, H, W) of the next frames."""
        normed, (frames, height, width) = self.norm(x), x.shape[2:]
        queries, keys, values = (layer(normed, stream).flatten(3) for layer in (self.q, self.k, self.v))
        if self._frames is None:
            queries, keys, values = (each.permute(0, 2, 3, 1) for each in (queries, keys, values))
            found = F.scaled_dot_product_attention(queries, keys, values).permute(0, 3, 1, 2)
        else:
            queries, keys, values = (each.permute(0, 3, 2, 1) for each in (queries, keys, values))  # (B, H * W, T, C)
            keys, values = (stream.remember(each, self._frames - 1, 2) for each in (keys, values))
            distance = torch.arange(frames).unsqueeze(1) + keys.shape[2] - frames - torch.arange(keys.shape[2])
            sees = ((distance >= 0) & (distance < self._frames)).to(x.device)
            found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=sees).permute(0, 3, 2, 1)
        return x + self.proj_out(found.unflatten(3, (height, width)), stream)


class Middle(nn.Module):
    """Two residual blocks with attention between them: over the positions of a frame, then over the frames."""

    def __init__(self, channels: int, attended_frames: int) -> None:
        super().__init__()
        self.block_1 = CosmosBlock(channels, channels)
        self.attn_1 = nn.ModuleList([Attention(channels), Attention(channels, attended_frames)])
        self.block_2 = CosmosBlock(channels, channels)

    def forward(self, x: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Map features (B, C, T, H, W) of the next frames."""
        for layer in (self.block_1, *self.attn_1, self.block_2):
            x = layer(x, stream)
        return x
