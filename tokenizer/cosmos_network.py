"""The networks of Cosmos' discrete video tokenizers, causal in time, as a stream with an explicit state.

    stream = Stream(None)                                   # at the start of a clip; later Stream(state)
    latents_BDthw = CosmosEncoder(config)(frames_BCTHW, stream)
    state = stream.next                                     # for the frames that follow
    frames_BCTHW = CosmosDecoder(config)(codes_BDthw, Stream(state))

The arithmetic is that of NVIDIA's Cosmos tokenizers (arXiv 2501.03575, section 4): a Haar wavelet transform of patches,
residual blocks, and attention between them at the resolution of the latents. The modules have the names of the
published weights. Features are (B, C, T, H, W); frame 0 of a clip stands alone, and every further frame of latents is
several frames of pixels.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .cosmos_config import CosmosConfig
from .cosmos_layers import CausalConv, CosmosBlock, Factorized, FrameNorm, Middle, Stream
from .wavelet import haar_bands, inverse_haar_bands


class _Resample(nn.Module):
    """The three convolutions of a change of resolution, of which some may be unused."""

    def __init__(self, channels: int, *, spatial: bool, temporal: bool, kernels: Sequence[tuple[int, int, int]],
                 step: int) -> None:  # fmt: skip
        super().__init__()
        self._spatial, self._temporal = spatial, temporal
        self.conv1, self.conv2 = (CausalConv(channels, channels, kernel, step) for kernel in kernels)
        self.conv3 = CausalConv(channels, channels, (1, 1, 1))


class Downsample(_Resample):
    """Halves the height and width, then the frames: each time a convolution plus an average."""

    def __init__(self, channels: int, *, spatial: bool, temporal: bool) -> None:
        """Make the layer, which does nothing where it is neither spatial nor temporal."""
        super().__init__(channels, spatial=spatial, temporal=temporal, kernels=((1, 3, 3), (3, 1, 1)), step=2)

    def forward(self, x: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Map features (B, C, T, H, W) of the next frames."""
        if self._spatial:
            x = self.conv1(F.pad(x, (0, 1, 0, 1)), stream) + x.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).mean((4, 6))
        if self._temporal:
            if stream.starts:  # frame 0 counts twice
                x = torch.cat([x[:, :, :1], x], 2)
            x = self.conv2(x, stream) + x.unflatten(2, (-1, 2)).mean(3)
        return self.conv3(x, stream) if self._spatial or self._temporal else x


class CosmosUpsample(_Resample):
    """Doubles the frames, of which frame 0 stays one, then height and width: each time by a residual convolution."""

    def __init__(self, channels: int, *, spatial: bool, temporal: bool) -> None:
        """Make the layer, which does nothing where it is neither spatial nor temporal."""
        super().__init__(channels, spatial=spatial, temporal=temporal, kernels=((3, 1, 1), (1, 3, 3)), step=1)

    def forward(self, x: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Map features (B, C, T, H, W) of the next frames."""
        if self._temporal:
            x = x.repeat_interleave(2, 2)[:, :, int(stream.starts) :]
            x = x + self.conv1(x, stream)
        if self._spatial:
            x = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
            x = x + self.conv2(x, stream)
        return self.conv3(x, stream) if self._spatial or self._temporal else x


class Level(nn.Module):
    """The residual blocks of one resolution, and the change to the next one."""

    def __init__(self, blocks: Sequence[CosmosBlock]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Map features (B, C, T, H, W) of the next frames."""
        for layer in self.children():
            for block in layer if isinstance(layer, nn.ModuleList) else (layer,):
                x = block(x, stream)
        return x


class CosmosEncoder(nn.Module):
    """The network from frames to latents."""

    def __init__(self, config: CosmosConfig) -> None:
        super().__init__()
        self._patch = config.patch
        widths = [config.channels * each for each in (1, *config.multipliers)]
        self.conv_in = Factorized(3 * config.patch**3, widths[0])
        self.down = nn.ModuleList()
        for number, (before, width) in enumerate(itertools.pairwise(widths)):
            inputs = [before] + [width] * (config.blocks - 1)
            level = Level([CosmosBlock(channels, width) for channels in inputs])
            if number < len(config.multipliers) - 1:
                spatial, temporal = number < config.halvings[1], number < config.halvings[0]
                level.downsample = Downsample(width, spatial=spatial, temporal=temporal)
            self.down.append(level)
        self.mid = Middle(widths[-1], config.attended_frames)
        self.norm_out, self.conv_out = FrameNorm(widths[-1]), Factorized(widths[-1], config.latent_channels)

    def forward(self, frames_BCTHW: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Return the latents (B, D, t, h, w) of the next frames, whose values are from -1 to 1."""
        if stream.starts:  # frame 0 becomes a group of its copies
            frames_BCTHW = torch.cat([frames_BCTHW[:, :, :1].expand(-1, -1, self._patch - 1, -1, -1), frames_BCTHW], 2)
        x = self.conv_in(haar_bands(frames_BCTHW, self._patch), stream)
        for level in (*self.down, self.mid):
            x = level(x, stream)
        return self.conv_out(F.silu(self.norm_out(x)), stream)


class CosmosDecoder(nn.Module):
    """The network from latents to frames."""

    def __init__(self, config: CosmosConfig) -> None:
        super().__init__()
        self._patch = config.patch
        widths = [config.channels * each for each in config.multipliers]
        self.conv_in = Factorized(config.latent_channels, widths[-1])
        self.mid = Middle(widths[-1], config.attended_frames)
        levels, before = [], widths[-1]
        for number, width in reversed([*enumerate(widths)]):
            level = Level([CosmosBlock(channels, width) for channels in [before] + [width] * config.blocks])
            if number:
                spatial, temporal = config.doublings[len(widths) - 1 - number]
                level.upsample = CosmosUpsample(width, spatial=spatial, temporal=temporal)
            levels.append(level)
            before = width
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out, self.conv_out = FrameNorm(before), Factorized(before, 3 * config.patch**3)

    def forward(self, latents_BDthw: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Return the frames (B, 3, T, H, W) of the next latents, with values of about -1 to 1."""
        x = self.mid(self.conv_in(latents_BDthw, stream), stream)
        for level in reversed([*self.up]):
            x = level(x, stream)
        frames = inverse_haar_bands(self.conv_out(F.silu(self.norm_out(x)), stream), self._patch)
        return frames[:, :, self._patch - 1 :] if stream.starts else frames
