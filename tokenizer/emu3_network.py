"""The encoder and the decoder of Emu3's tokenizer: networks of single frames, and over time at their narrow ends.

latents_BDthw = Emu3Encoder(config)(frames_B3THW, stream)            # a multiple of `temporal` frames
frames_B3THW = Emu3Decoder(config)(latents_BDthw, codes_BDthw, stream)
"""

import torch
import torch.nn.functional as F
from torch import nn

from .cosmos_layers import Stream
from .emu3_config import Emu3CodecConfig
from .emu3_layers import Level, MiddleBlock, frame_norm
from .emu3_time import TimeBlock, TimeConv


class _Down(nn.Module):
    def __init__(self, config: Emu3CodecConfig) -> None:
        super().__init__()
        widths = [config.base_channels * each for each in (1, *config.multipliers)]
        last = len(config.multipliers) - 1
        self.down = nn.ModuleList(
            Level(
                [widths[level], *[widths[level + 1]] * config.blocks], None, attends=level in config.attended,
                resampled=None if level == last else "downsample",
            )
            for level in range(last + 1)
        )  # fmt: skip


class _Up(nn.Module):
    def __init__(self, config: Emu3CodecConfig) -> None:
        super().__init__()
        widths = [config.base_channels * each for each in config.multipliers]
        before = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            Level(
                [before[level], *[widths[level]] * (config.blocks + 1)], config.embed_dim,
                attends=level in config.attended, resampled="upsample" if level else None,
            )
            for level in range(len(widths))
        )  # fmt: skip


class Emu3Encoder(nn.Module):
    """The encoder: frames to latents."""

    def __init__(self, config: Emu3CodecConfig) -> None:
        super().__init__()
        last, latent = config.base_channels * config.multipliers[-1], config.latent_channels
        self.conv_in = nn.Conv2d(3, config.base_channels, 3, 1, 1)
        self.down_block, self.middle_block = _Down(config), MiddleBlock(last, None)
        self.norm_out, self.conv_out = frame_norm(last, None), nn.Conv2d(last, latent, 3, 1, 1)
        self.time_conv = nn.ModuleList(TimeConv(latent, latent, (4, 3, 3), 2) for _ in range(config.doublings))
        self.time_res_stack = nn.ModuleList(TimeBlock(latent) for _ in range(config.blocks))

    def forward(self, frames_B3THW: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Return the latents (B, D, t, h, w) of the next frames."""
        x = self.conv_in(frames_B3THW.transpose(1, 2).flatten(0, 1))
        for level in self.down_block.down:
            x = level(x, None)
        x = self.conv_out(F.silu(self.norm_out(self.middle_block(x, None))))
        x = x.unflatten(0, (len(frames_B3THW), -1)).transpose(1, 2)
        for convolution in self.time_conv:
            x = F.silu(convolution(x, stream))
        for block in self.time_res_stack:
            x = block(x, stream)
        return x


class Emu3Decoder(nn.Module):
    """The decoder: latents and the codes that they were made of to frames."""

    def __init__(self, config: Emu3CodecConfig) -> None:
        super().__init__()
        widths, latent = [config.base_channels * each for each in config.multipliers], config.latent_channels
        self.time_res_stack = nn.ModuleList(TimeBlock(latent) for _ in range(config.blocks))
        self.time_conv = nn.ModuleList(TimeConv(latent, latent, (3, 3, 3)) for _ in range(config.doublings))
        self.conv_in = nn.Conv2d(latent, widths[-1], 3, 1, 1)
        self.middle_block, self.up_block = MiddleBlock(widths[-1], config.embed_dim), _Up(config)
        self.norm_out = frame_norm(widths[0], config.embed_dim)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, 1, 1)

    def forward(self, latents_BDthw: torch.Tensor, codes_BDthw: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Return the frames (B, 3, T, H, W) of the next latent frames."""
        # Latents and codes go through the same layers over time.
        x, codes = (self._over_time(part, stream) for part in (latents_BDthw, codes_BDthw))
        x = self.middle_block(self.conv_in(x), codes)
        for level in reversed(self.up_block.up):
            x = level(x, codes)
        frames = self.conv_out(F.silu(self.norm_out(x, codes)))
        return frames.unflatten(0, (len(latents_BDthw), -1)).transpose(1, 2)

    def _over_time(self, x_BDthw: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Return the features (B * T, D, h, w) of the frames of these latent frames."""
        for block in self.time_res_stack:
            x_BDthw = block(x_BDthw, stream)
        for convolution in self.time_conv:
            x_BDthw = F.silu(convolution(x_BDthw.repeat_interleave(2, 2), stream))
        return x_BDthw.transpose(1, 2).flatten(0, 1)
