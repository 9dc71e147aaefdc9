"""What tokenizers make of clips, as it is shown: uint8 frames, at once and in chunks, and of a stream.

frames = CASES["world/chunks"](models)
"""

import numpy as np
import torch

from reelm.world.render import render
from reelm.world.scene import sample_scene

from .formula import formula_clip
from .models import TEMPORAL, Models
from .token_cases import LONG, RED, SEEDS

FRAMES = 13


def shown(frames: torch.Tensor) -> np.ndarray:
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def at_once(tokenizer, clip: torch.Tensor) -> np.ndarray:
    return shown(tokenizer.decode(tokenizer.encode(clip)))


def in_chunks(tokenizer, clip: torch.Tensor) -> np.ndarray:
    """A latent frame at a time, both ways."""
    encoding, decoding, made = None, None, []
    for chunk in (clip[:, :1], *clip[:, 1:].split(TEMPORAL, 1)):
        tokens, encoding = tokenizer.encode_chunk(chunk, encoding)
        frames, decoding = tokenizer.decode_chunk(tokens, decoding)
        made.append(frames)
    return shown(torch.cat(made, 1))


@torch.no_grad()
def coded(models: Models, model: str, way, rendered: bool = False) -> np.ndarray:
    generator = models.generator(model)
    config = generator.parts.config
    if rendered:
        clip = render([sample_scene(3, 0, split="held-out")], FRAMES)
    else:
        clip = torch.from_numpy(formula_clip(FRAMES, config.height, config.width))[None]
    return way(generator.parts.tokenizer, clip)


def streamed(models: Models, model: str) -> np.ndarray:
    """What the case "jacobi" of token_cases.py makes."""
    stream = models.generator(model).stream(RED, num_frames=LONG, seed=SEEDS[model], guidance_scale=3.0)
    return np.concatenate(list(stream))[None]


def continued(models: Models, model: str) -> np.ndarray:
    """Frames from elsewhere and what follows them, with the detail that the tokenizer loses."""
    generator = models.generator(model)
    config = generator.parts.config
    clip = formula_clip(9, config.height, config.width)
    return generator.continue_clip(clip, num_frames=4, seed=SEEDS[model], temperature=0.0).frames[None]


CASES = {
    "raster/at once": lambda models: coded(models, "raster", at_once),
    "raster/in chunks": lambda models: coded(models, "raster", in_chunks),
    "raster/streamed": lambda models: streamed(models, "raster"),
    "raster/continued": lambda models: continued(models, "raster"),
    "coarse/streamed": lambda models: streamed(models, "coarse"),
    "world/at once": lambda models: coded(models, "world", at_once),
    "world/in chunks": lambda models: coded(models, "world", in_chunks),
    "world/rendered at once": lambda models: coded(models, "world", at_once, rendered=True),
    "world/rendered in chunks": lambda models: coded(models, "world", in_chunks, rendered=True),
}
