"""NVIDIA's Cosmos discrete video tokenizers as a codec; `reelm convert` makes one of the published files.

    tokenizer = CosmosTokenizer(CosmosConfig(temporal=8, spatial=16))
    tokens_Bthw, state = tokenizer.encode_chunk(frames_BTHW3, None)      # uint8 or float in [0, 1]; T = 1 + 8 n
    frames_BTHW3, state = tokenizer.decode_chunk(tokens_Bthw, None)      # float in [0, 1]

Attention and norms see a whole frame, so that it cannot be cut into tiles; a frame of any height and width that are
multiples of the stride is computed at once.
"""

import torch
from torch import nn

from .cosmos_config import CosmosConfig
from .cosmos_layers import CausalConv, Stream
from .cosmos_network import CosmosDecoder, CosmosEncoder
from .inputs import check_latents
from .quantizer import Quantizer, QuantizerConfig
from .stream_codec import StreamCodec


class CosmosTokenizer(StreamCodec[CosmosConfig]):
    """A codec with the networks of Cosmos and finite scalar quantization."""

    def __init__(self, config: CosmosConfig) -> None:
        super().__init__(config)
        self.encoder, self.decoder = CosmosEncoder(config), CosmosDecoder(config)
        self.quantizer = Quantizer(QuantizerConfig(levels=config.levels))
        self.quant_conv = CausalConv(config.latent_channels, len(config.levels), (1, 1, 1))
        self.post_quant_conv = CausalConv(len(config.levels), config.latent_channels, (1, 1, 1))

    def encoding_parts(self) -> tuple[nn.Module, ...]:
        """Return the modules whose weights determine the tokens of a clip."""
        return self.encoder, self.quant_conv

    def encode_stream(self, frames_B3THW: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Return the tokens (B, t, h, w) of the next frames."""
        latents_BDthw = self.quant_conv(self.encoder(frames_B3THW, stream), stream)
        check_latents(latents_BDthw)
        _, tokens, _ = self.quantizer(latents_BDthw.flatten(2).transpose(1, 2))
        return tokens.unflatten(1, latents_BDthw.shape[2:])

    def decode_stream(self, tokens_Bthw: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Return the frames (B, 3, T, H, W) of the next latent frames."""
        codes = self.quantizer.codes(tokens_Bthw.flatten(1)).transpose(1, 2).unflatten(2, tokens_Bthw.shape[1:])
        x = self.post_quant_conv(codes.to(self.quant_conv.conv3d.weight.dtype), stream)
        frames_B3THW: torch.Tensor = self.decoder(x, stream)
        return frames_B3THW
