"""Estimate the bytes that a tokenizer and the decoding of its tokens take, from its sizes alone.

weights = tokenizer_bytes(config)
decoding = pixel_bytes(config, clips=1, height=64, width=64)

The formulas count, tensor by tensor, what the code allocates.
"""

import functools

import torch

from .network import Decoder, Encoder
from .tokenizer_config import TokenizerConfig


@functools.cache
def tokenizer_bytes(config: TokenizerConfig) -> int:
    """Return the bytes of a tokenizer's weights, which are float32 on every device.

    They include the quantizer's codes and, for a learned codebook, its moving averages.
    """
    with torch.device("meta"):
        parts = (Encoder(config), Decoder(config))
    size = sum(parameter.numel() for part in parts for parameter in part.parameters())
    quantizer = config.quantizer
    codes = quantizer.vocab_size * (2 * quantizer.dim + 1 if quantizer.kind == "vq" else quantizer.dim)
    return 4 * (size + codes)


def pixel_bytes(config: TokenizerConfig, clips: int, height: int, width: int) -> int:
    """Return the bytes that decoding one latent frame of each clip takes: the decoder's largest stage, in float32.

    A residual block holds six tensors at once: the input of its stage, its own input, the outputs of its norm and its
    convolution, and the convolution's input and output in oneDNN's layout. The formula allows for eight, as the heap
    does not release all memory at once: 6.6 were measured with 16 clips of the bundled model, and 9 to 10 with 128.

    Args:
        config: The sizes of the tokenizer.
        clips: The number of clips that are decoded together.
        height: The rows of pixels of each clip.
        width: The columns of pixels of each clip.
    """
    cells = (height // config.spatial) * (width // config.spatial)
    positions, widths, peak = cells, config.decoder_widths, 0
    for index, channels in enumerate(widths):
        peak = max(peak, 8 * channels * positions)
        if index + 1 < len(widths):  # the upsampling convolution in both layouts, and the copy of its pixel shuffle
            peak = max(peak, (3 * channels + 3 * 4 * widths[index + 1]) * positions)
            positions *= 4
    pixels = 3 * config.temporal * height * width
    # The head holds the stage's input, its own input in both layouts and its output in both; then come the frames, in
    # up to four copies.
    peak = max(peak, 3 * widths[-1] * positions + 2 * pixels, 4 * pixels)
    state = 3 * config.decoder_memory * widths[0] * cells
    return 4 * clips * (peak + state)
