"""How many bytes a tokenizer and the decoding of its tokens take, from its sizes alone.

weights = tokenizer_bytes(config)
decoding = pixel_bytes(config, clips=1, height=64, width=64)

The formulas follow the code that allocates, tensor by tensor.
"""

import functools

import torch

from .network import Decoder, Encoder
from .tokenizer_config import TokenizerConfig


@functools.cache
def tokenizer_bytes(config: TokenizerConfig) -> int:
    """The bytes of its weights, in float32 everywhere.

    The quantizer's codes are few; a learned codebook has its averages too.
    """
    with torch.device("meta"):
        parts = (Encoder(config), Decoder(config))
    size = sum(parameter.numel() for part in parts for parameter in part.parameters())
    quantizer = config.quantizer
    codes = quantizer.vocab_size * (2 * quantizer.dim + 1 if quantizer.kind == "vq" else quantizer.dim)
    return 4 * (size + codes)


def pixel_bytes(config: TokenizerConfig, clips: int, height: int, width: int) -> int:
    """The bytes of decoding one latent frame of each clip, of so many pixels: the decoder's largest stage, in float32.

    In a residual block the stage's input, the block's, its norm's output and the convolution's are there at once, and
    the convolution has its input and its output in oneDNN's layout too: six. The heap does not give all of it back at
    once: measured were 6.6 with 16 clips of the bundled model and 9 to 10 with 128.
    """
    cells = (height // config.spatial) * (width // config.spatial)
    place, widths, most = cells, config.decoder_widths, 0
    for index, channels in enumerate(widths):
        most = max(most, 8 * channels * place)
        if index + 1 < len(widths):  # the convolution, in both layouts, and its result as it is moved into space
            most = max(most, (3 * channels + 3 * 4 * widths[index + 1]) * place)
            place *= 4
    pixels = 3 * config.temporal * height * width
    # The head: its input in both layouts beside the stage's, its output in both. Then frames: three of them in a row.
    most = max(most, 3 * widths[-1] * place + 2 * pixels, 4 * pixels)
    past = 3 * config.decoder_memory * widths[0] * cells
    return 4 * clips * (most + past)
