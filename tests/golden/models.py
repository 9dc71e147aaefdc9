"""The models whose numbers are kept: two of debug size, made from nothing, and the bundled one.

    models = Models(folder)
    generator = models.generator("raster")

Weights follow from the names of the parameters, which are those of a checkpoint's tensors: neither the order in which a
class makes its layers nor the CPU changes them. Grids are not square, so that exchanged axes are seen.
"""

import math
import zlib
from pathlib import Path

import torch

from reelm import VideoGenerator
from reelm.core.errors import ReelmError
from reelm.generation.pretrained import ModelConfig, save_pretrained
from reelm.lm.lm_config import LMConfig
from reelm.lm.quantization import check_machine
from reelm.lm.text import TextEncoder, train_text
from reelm.lm.transformer import VideoTransformer
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.tokenizer.video_tokenizer import TokenizerConfig, VideoTokenizer

CAPTIONS = ["a red ball moves left", "a blue ring spins over grass"]
GRIDS = {"raster": (4, 5), "coarse": (5, 4)}
DEPTHS = {"raster": 2, "coarse": 1}
STRIDE = 8  # pixels of a token, along rows and columns, of all three models
TEMPORAL = 4  # frames of a latent frame


class Models:
    """Generators by name, each loaded once; the debug models are written into a folder first."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._loaded = {}

    def generator(self, name: str, weights: str = "full", cache: str = "full") -> VideoGenerator:
        """The generator of "raster", "coarse" or "world"."""
        wanted = (name, weights, cache)
        if wanted not in self._loaded:
            model = "world" if name == "world" else self.folder / name
            if name != "world" and not model.exists():
                write_debug(model, name)
            self._loaded[wanted] = VideoGenerator.from_pretrained(model, device="cpu", weights=weights, cache=cache)
        return self._loaded[wanted]


def has_int8_weights() -> bool:
    """Whether this machine multiplies in int8."""
    try:
        check_machine("int8", "cpu")
    except ReelmError:
        return False
    return True


def write_debug(folder: Path, order: str) -> None:
    """Write a tiny model of this order; its weights are so large that prompt and past change the tokens."""
    rows, columns = GRIDS[order]
    tokenizer = TokenizerConfig(
        encoder_width=16, decoder_widths=(16, 8), decoder_depth=(1, 1), quantizer=QuantizerConfig(levels=(5, 5))
    )
    lm = LMConfig(vocab_size=25, rows=rows, columns=columns, order=order, window=3, prefix=16, width=32,
                  depth=DEPTHS[order], heads=2, kv_heads=1, head_dim=16, hidden=32, neighbour_dim=8)  # fmt: skip
    config = ModelConfig(format=1, fps=8.0, height=STRIDE * rows, width=STRIDE * columns, tokenizer=tokenizer, lm=lm)
    model, codec = VideoTransformer(lm), VideoTokenizer(tokenizer)
    fill(model, 0.3)
    fill(codec)
    model.text = TextEncoder(train_text(CAPTIONS))
    save_pretrained(folder, config, codec, model)


@torch.no_grad()
def fill(module: torch.nn.Module, deviation: float | None = None) -> None:
    """Uniform weights of this standard deviation, or of one that keeps the size of what passes through them.

    `torch.rand` has the same bits on every CPU; normal numbers, which pass through a logarithm, have not.
    """
    for name, parameter in module.named_parameters():
        numbers = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        if parameter.ndim > 1:
            size = deviation or 1.5 / math.sqrt(parameter[0].numel())
            parameter.copy_((numbers - 0.5) * size * math.sqrt(12))
        elif name.endswith("bias"):
            parameter.copy_((numbers - 0.5) * 0.2)
