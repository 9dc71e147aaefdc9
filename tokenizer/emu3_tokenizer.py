"""Emu3's vector-quantized video tokenizer as a codec; `reelm convert` makes one of the published files.

    tokenizer = Emu3Tokenizer(Emu3CodecConfig())
    tokens_Bthw, state = tokenizer.encode_chunk(frames_BTHW3, None)      # uint8 or float in [0, 1]; T = 4 n
    frames_BTHW3, state = tokenizer.decode_chunk(tokens_Bthw, None)      # float in [0, 1]

A latent frame is `temporal` frames, the first one too. Where frames are still pictures each is a latent frame by
itself: it is repeated to be encoded, and is the first of the frames that are decoded, as transformers does it.
"""

import torch
from torch import nn

from ..kernels.nearest_code import nearest_code
from .cosmos_layers import Stream
from .emu3_config import Emu3CodecConfig
from .emu3_network import Emu3Decoder, Emu3Encoder
from .emu3_time import TimeConv
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
        if not self.config.pictures:
            return self._encode(frames_B3THW, stream)
        each = frames_B3THW.transpose(1, 2).flatten(0, 1).unsqueeze(2)
        tokens = self._encode(each.expand(-1, -1, self.config.temporal, -1, -1), Stream(None))
        return tokens.view(len(frames_B3THW), -1, *tokens.shape[2:])

    def decode_stream(self, tokens_Bthw: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Return the frames (B, 3, T, H, W) of the next latent frames."""
        if not self.config.pictures:
            return self._decode_clip(tokens_Bthw, stream)
        frames = self._decode_clip(tokens_Bthw.flatten(0, 1).unsqueeze(1), Stream(None))[:, :, 0]
        return frames.unflatten(0, tokens_Bthw.shape[:2]).transpose(1, 2)

    def _encode(self, frames_B3THW: torch.Tensor, stream: Stream) -> torch.Tensor:
        latents_BDthw = self.quant_conv(self.encoder(frames_B3THW, stream), stream)
        check_latents(latents_BDthw)
        latents_BthwD = latents_BDthw.movedim(1, -1)
        return nearest_code(latents_BthwD.flatten(0, -2), self.quantize.embedding.weight).view(latents_BthwD.shape[:-1])

    def _decode_clip(self, tokens_Bthw: torch.Tensor, stream: Stream) -> torch.Tensor:
        codes_BDthw = self.quantize.embedding(tokens_Bthw).movedim(-1, 1)
        frames_B3THW: torch.Tensor = self.decoder(self.post_quant_conv(codes_BDthw, stream), codes_BDthw, stream)
        return frames_B3THW
