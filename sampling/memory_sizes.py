"""How many bytes the parts of a model and of its work take, from their sizes alone: what a memory plan is made of.

parameters = lm_parameters(config.lm)
step = step_bytes(config.lm, rows=2, count=16, kind=torch.float32, on_gpu=False)

The formulas follow the code that allocates, tensor by tensor.
"""

import functools

import torch
from torch import nn

from ..lm.int8 import Kind
from ..lm.neighbours import neighbours
from ..lm.transformer import LMConfig, VideoTransformer
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.network import Decoder, Encoder
from .noise import NoiseAhead
from .passes import frames_ahead
from .pretrained import ModelConfig
from .rules import SamplingConfig

META = torch.device("meta")
# What `gumbel_noise` holds for each number, five tensors of int64, and how many it makes at a time.
NOISE_BYTES, NOISE_AT_ONCE = 40, 2**17


@functools.cache
def lm_parameters(config: LMConfig) -> int:
    """Parameters of the language model."""
    with META:
        return sum(parameter.numel() for parameter in VideoTransformer(config).parameters())


@functools.cache
def lm_bytes(config: LMConfig, kind: torch.dtype, weights: Kind) -> int:
    """Of the language model's weights."""
    if weights == "full":
        return lm_parameters(config) * kind.itemsize
    with META:
        linears = [module for module in VideoTransformer(config).modules() if isinstance(module, nn.Linear)]
    inside = sum(linear.weight.numel() for linear in linears)
    # A scale and a zero point of each output; a GPU has the scale alone.
    of_outputs = sum(12 * linear.out_features for linear in linears)
    return inside + of_outputs + (lm_parameters(config) - inside) * kind.itemsize


@functools.cache
def tokenizer_bytes(config: TokenizerConfig) -> int:
    """Of its weights, in float32 everywhere; the quantizer's codes are few, a learned codebook has its averages too."""
    with META:
        parts = (Encoder(config), Decoder(config))
    size = sum(parameter.numel() for part in parts for parameter in part.parameters())
    quantizer = config.quantizer
    codes = quantizer.vocab_size * (2 * quantizer.dim + 1 if quantizer.kind == "vq" else quantizer.dim)
    return 4 * (size + codes)


def noise_bytes(vocab_size: int, batch: int, count: int) -> tuple[int, int]:
    """Of the noise ahead at its height, and once it is there (`NoiseAhead`, `gumbel_noise`)."""
    block = NoiseAhead(vocab_size, META).block
    numbers = batch * -(-count // block) * block * vocab_size
    # The block before, the new one in parts, and the new one as a whole: of all clips where they advance together.
    # Those of a block decoder drift apart, so that few draw in one pass: from 2 on, and 3 if none does drift.
    together = batch == 1 or count == 1
    return (12 if together else 10) * numbers + NOISE_BYTES * min(numbers, NOISE_AT_ONCE), 4 * numbers


def step_bytes(
    config: LMConfig, rows: int, count: int, kind: torch.dtype, on_gpu: bool, *, int8_cache: bool = False
) -> int:
    """Of the largest layer of a pass over `count` positions, or of its logits."""
    width, heads = config.width, (config.heads + config.kv_heads) * config.head_dim
    slots = config.prefix + (config.window + frames_ahead(count, config.frame_size)) * config.frame_size
    places = rows * count
    # A layer's keys and values of int8, as floating-point numbers to multiply with.
    as_floats = 2 * max(4, kind.itemsize) * rows * config.kv_heads * slots * config.head_dim
    as_floats = as_floats if int8_cache and not on_gpu else 0
    # The stream and its norm; then queries, keys and values, as they come, in float32, normalised, turned, split.
    attention = kind.itemsize * (2 * width + 3 * heads) + 4 * 3 * heads
    # Products in two parts, with the mask, and as weights; the Triton kernel keeps none of them.
    attention += 0 if on_gpu else 3 * max(4, kind.itemsize) * config.heads * slots
    mlp = kind.itemsize * (3 * width + 4 * config.hidden)
    video_input = len(neighbours(config.order)) * (kind.itemsize * config.neighbour_dim + 10 * 8)
    mask = 3 * 4 * slots
    return as_floats + places * (mask + max(attention, mlp, video_input, kind.itemsize * (config.vocab_size + width)))


def draw_bytes(config: LMConfig, rows: int, count: int, kind: torch.dtype, sampling: SamplingConfig) -> int:
    """Of the logits and of all that `sample_reference` makes of them."""
    clips = rows // 2 if sampling.guidance_scale != 1 else rows
    logits = rows * (kind.itemsize + (0 if kind == torch.float32 else 4))
    # The noise, the scores, those of them that are allowed, their sum; with top-p the order and its probabilities.
    return count * config.vocab_size * (logits + 4 * clips * (8 if sampling.top_p < 1 else 4))


def pixel_bytes(config: ModelConfig, clips: int) -> int:
    """Of decoding one latent frame of each clip: the largest stage of the tokenizer's decoder, in float32.

    In a residual block the stage's input, the block's, its norm's output and the convolution's are there at once, and
    the convolution has its input and its output in oneDNN's layout too: six. The heap does not give all of it back at
    once: measured were 6.6 with 16 clips of the bundled model and 9 to 10 with 128.
    """
    tokenizer = config.tokenizer
    place, widths, most = config.lm.frame_size, tokenizer.decoder_widths, 0
    for index, width in enumerate(widths):
        most = max(most, 8 * width * place)
        if index + 1 < len(widths):  # the convolution, in both layouts, and its result as it is moved into space
            most = max(most, (3 * width + 3 * 4 * widths[index + 1]) * place)
            place *= 4
    pixels = 3 * tokenizer.temporal * config.height * config.width
    # The head: its input in both layouts beside the stage's, its output in both. Then frames: three of them in a row.
    most = max(most, 3 * widths[-1] * place + 2 * pixels, 4 * pixels)
    past = 3 * tokenizer.decoder_memory * widths[0] * config.lm.frame_size
    return 4 * clips * (most + past)


def clip_bytes(config: ModelConfig, latent_frames: int) -> int:
    """Of a finished clip: its frames and its tokens."""
    frames = config.tokenizer.compression.frames(latent_frames) * config.height * config.width * 3
    return frames + 8 * latent_frames * config.lm.frame_size
