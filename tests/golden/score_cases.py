"""What clips cost under a model, in nats for each token.

nats = CASES["raster/own"](models)
"""

import numpy as np

from .formula import formula_clip
from .models import Models
from .token_cases import BLUE, RED, SEEDS, SHORT


def own(models: Models, model: str, prompt=None) -> np.ndarray:
    """A clip that the model made, under its own prompt or another; tokens as those of the case "temperature 0"."""
    generator = models.generator(model)
    clip = generator.generate(RED, num_frames=SHORT, seed=SEEDS[model], temperature=0.0)
    return generator.score(clip, prompt).nats_thw


def foreign(models: Models, model: str) -> np.ndarray:
    generator = models.generator(model)
    config = generator.parts.config
    return generator.score(formula_clip(13, config.height, config.width), RED).nats_thw


CASES = {
    "raster/own prompt": lambda models: own(models, "raster"),
    "raster/prompts that change": lambda models: own(models, "raster", [(0, RED), (1.0, BLUE)]),
    "coarse/own prompt": lambda models: own(models, "coarse"),
    "coarse/another prompt": lambda models: own(models, "coarse", BLUE),
    "coarse/foreign frames": lambda models: foreign(models, "coarse"),
    "world/foreign frames": lambda models: foreign(models, "world"),
}
