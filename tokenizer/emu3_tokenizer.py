"""Emu3's vector-quantized video tokenizer as a codec; `reelm convert` makes one of the published files.

    tokenizer = Emu3Tokenizer(Emu3CodecConfig())
    tokens_Bthw, state = tokenizer.encode_chunk(frames_BTHW3, None)      # uint8 or float in [0, 1]; T = 1 + 4 n
    frames_BTHW3, state = tokenizer.decode_chunk(tokens_Bthw, None)      # float in [0, 1]

A latent frame is `temporal` frames. The first one is a single frame here, as in other codecs: it is repeated to be
encoded, which is what the published code does with a still picture. Of the frames that are decoded the last one is the
frame before those that follow; of a still picture the published code takes the first.
"""

import torch
from torch import nn

from ..kernels.nearest_code import nearest_code
from .cosmos_layers import Stream
from .emu3_config import Emu3CodecConfig
from .emu3_layers import TimeConv
from .emu3_network import Emu3Decoder, Emu3Encoder
from .inputs import check_latents
from .stream_codec import StreamCodec


class _Codebook(nn.Module):
    def __init__(self, config: Emu3CodecConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.codebook_size, config.embed_dim)


class Emu3Tokenizer(StreamCodec[Emu3CodecConfig]):
    """A codec with the networks of Emu3 and a codebook."""

    def __init__(self, config: Emu3CodecConfig) -> None:
        super().__init__(config)
        self.encoder, self.decoder = Emu3Encoder(config), Emu3Decoder(config)
        self.quantize = _Codebook(config)
        self.quant_conv = TimeConv(config.latent_channels, config.embed_dim, (3, 1, 1))
        self.post_quant_conv = TimeConv(config.embed_dim, config.latent_channels, (3, 1, 1))

    def encoding_parts(self) -> tuple[nn.Module, ...]:
        """Return the modules whose weights determine the tokens of a clip."""
        return self.encoder, self.quant_conv, self.quantize

    def encode_stream(self, frames_B3THW: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Return the tokens (B, t, h, w) of the next frames."""
        if stream.starts:
            first = frames_B3THW[:, :, :1].expand(-1, -1, self.config.temporal - 1, -1, -1)
            frames_B3THW = torch.cat([first, frames_B3THW], 2)
        latents_BDthw = self.quant_conv(self.encoder(frames_B3THW, stream), stream)
        check_latents(latents_BDthw)
        latents_MD = latents_BDthw.movedim(1, -1).flatten(0, -2)
        return nearest_code(latents_MD, self.quantize.embedding.weight).view(
            latents_BDthw.shape[:1] + latents_BDthw.shape[2:]
        )

    def decode_stream(self, tokens_Bthw: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Return the frames (B, 3, T, H, W) of the next latent frames."""
        codes_BDthw = self.quantize.embedding(tokens_Bthw).movedim(-1, 1)
        frames_B3THW: torch.Tensor = self.decoder(self.post_quant_conv(codes_BDthw, stream), codes_BDthw, stream)
        if not stream.starts:
            return frames_B3THW
        temporal = self.config.temporal
        kept = 0 if self.config.pictures else temporal - 1
        return torch.cat([frames_B3THW[:, :, kept : kept + 1], frames_B3THW[:, :, temporal:]], 2)
