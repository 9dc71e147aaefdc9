"""Estimate the bytes that a tokenizer and the decoding of its tokens take, from its sizes alone.

weights = tokenizer_bytes(config)

The formulas count, tensor by tensor, what the code allocates.
"""

import functools

import torch

from .network import Decoder, Encoder
from .tokenizer_config import TokenizerConfig


@functools.cache
def tokenizer_bytes(config: TokenizerConfig) -> int:
    """Return the bytes of a tokenizer's weights, which are float32 on every device.

    They include a learned codebook and its moving averages.
    """
    with torch.device("meta"):
        parts = (Encoder(config), Decoder(config))
    size = sum(parameter.numel() for part in parts for parameter in part.parameters())
    quantizer = config.quantizer
    codes = quantizer.vocab_size * (2 * quantizer.dim + 1) if quantizer.kind == "vq" else 0
    return 4 * (size + codes)
