"""What is generated, by name: only the public methods of `VideoGenerator` are used, so that the table outlives changes.

    case = CASES["raster/jacobi"]
    videos = case.run(models, folder)

Each debug model makes all of DEBUG. SEEDS are such that the smallest gap of each case (gaps.py) is large enough.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reelm import VideoGenerator

from .formula import formula_clip
from .models import Models

RED, BLUE = "a red ball moves left", "a blue ring spins over grass"
LONG = 25  # frames: 7 latent frames, more than the window of 3 and the ring around it
SHORT = 13  # 4 latent frames: beyond the window still
Run = Callable[[VideoGenerator, int, Path], Any]


@dataclass(frozen=True)
class Case:
    """A way to make clips, and the model and seed that it is made with."""

    model: str
    seed: int
    make: Run
    weights: str = "full"
    cache: str = "full"

    def run(self, models: Models, folder: Path) -> list[Any]:
        """The clips that it makes, each a `Video`; `folder` is for files on the way."""
        made = self.make(models.generator(self.model, self.weights, self.cache), self.seed, folder)
        return made if isinstance(made, list) else [made]


def generate(prompt: Any = RED, num_frames: Any = LONG, **options: Any) -> Run:
    """One call; with several prompts, each has a seed of its own."""

    def make(generator, seed, folder):
        several = isinstance(prompt, list) and isinstance(prompt[0], str)
        seeds = [seed + 100 * index for index in range(len(prompt))] if several else seed
        return generator.generate(prompt, num_frames=num_frames, seed=seeds, **options)

    return make


def from_memory(generator, seed, folder):
    start = generator.generate(RED, num_frames=SHORT, seed=seed)
    return generator.continue_clip(start, num_frames=8)


def from_session(generator, seed, folder):
    start = generator.generate(RED, num_frames=SHORT, seed=seed)
    return generator.continue_clip(start.state.save(folder / "clip.safetensors"), num_frames=8, prompt=BLUE)


def from_file(generator, seed, folder):
    start = generator.generate(RED, num_frames=SHORT, seed=seed)
    return generator.continue_clip(start.save(folder / "clip.mp4"), num_frames=8)


def from_frames(generator, seed, folder):
    config = generator.parts.config
    clip = formula_clip(13, config.height, config.width)
    return generator.continue_clip(clip, num_frames=8, prompt=BLUE, seed=seed)


def from_other_frames(generator, seed, folder):
    """Of another size, and two frames more than whole latent frames hold."""
    return generator.continue_clip(formula_clip(11, 48, 64), num_frames=8, prompt=RED, seed=seed, fit="pad")


def from_world_frames(generator, seed, folder):
    frames = np.stack([formula_clip(1, 64, 64)[0]] * 5)
    return generator.continue_clip(frames, num_frames=4, seed=seed, guidance="two-row")


def world_continued(generator, seed, folder):
    start = generator.generate("a yellow ball stays still at night", num_frames=1, seed=seed)
    return generator.continue_clip(start.save(folder / "world.mp4"), num_frames=4)


DEBUG = {
    "sequential": generate(decoder="sequential", guidance_scale=3.0),
    "jacobi": generate(decoder="jacobi", guidance_scale=3.0),
    "jacobi in blocks of 7": generate(decoder="jacobi", block_size=7, guidance_scale=3.0),
    "diagonal": generate(decoder="diagonal", guidance_scale=3.0),
    "sequential unguided": generate(decoder="sequential", guidance_scale=1.0, num_frames=SHORT),
    "jacobi unguided": generate(decoder="jacobi", guidance_scale=1.0, num_frames=SHORT),
    "diagonal unguided": generate(decoder="diagonal", guidance_scale=1.0, num_frames=SHORT),
    "batch": generate([RED, BLUE, "a ball over grass"], [5, 21, 13], batch_size=2, guidance_scale=3.0),
    "two of each": generate([RED, BLUE], SHORT, num_videos_per_prompt=2, guidance_scale=1.0),
    "from memory": from_memory,
    "from session": from_session,
    "from file": from_file,
    "from frames": from_frames,
    "from other frames": from_other_frames,
    "prompt schedule": generate([(0, RED), (1.0, BLUE)], SHORT),
    "temperature schedule": generate(num_frames=SHORT, temperature=[(0, 1.5), (1.0, 0.5)]),
    "top-k": generate(num_frames=SHORT, top_k=3, temperature=2.0),
    "top-p": generate(num_frames=SHORT, top_p=0.6, temperature=2.0),
    "min-p": generate(num_frames=SHORT, min_p=0.2, temperature=2.0),
    "all rules": generate(num_frames=SHORT, top_k=8, top_p=0.9, min_p=0.05, temperature=1.5, guidance_scale=2.0),
    "temperature 0": generate(num_frames=SHORT, temperature=0.0),
    "negative prompt": generate(num_frames=SHORT, negative_prompt=BLUE, guidance_scale=3.0),
    "no prompt": generate(None, SHORT, guidance_scale=1.0),
}
INT8 = {
    "int8 weights": ({"weights": "int8"}, generate(num_frames=SHORT)),
    "int8 cache": ({"cache": "int8"}, generate()),
}
WORLD = {
    "ball": generate("a red ball rolls to the right over grass", 9, guidance="two-row"),
    "ball in one row": generate("a red ball rolls to the right over grass", 9),
    "ring": generate("a blue ring spins", 5, decoder="jacobi", block_size=11, guidance_scale=1.0),
    "sequential": generate("a yellow ball stays still at night", 1, decoder="sequential", guidance="two-row"),
    "diagonal": generate("a white square moves left over grass", 5, decoder="diagonal", guidance="two-row"),
    "batch": generate(["a star", "a white cross rests"], 1, guidance="two-row"),
    "continued": world_continued,
    "from frames": from_world_frames,
}
# By model, or by case where the model's seed will not do for it.
SEEDS = {"raster": 4, "coarse": 1, "world": 0}


def _cases() -> dict[str, Case]:
    rows = [("world", name, {}, make) for name, make in WORLD.items()]
    for order in ("raster", "coarse"):
        rows += [(order, name, {}, make) for name, make in DEBUG.items()]
        rows += [(order, name, kinds, make) for name, (kinds, make) in INT8.items()]
    return {
        f"{model}/{name}": Case(model, SEEDS.get(f"{model}/{name}", SEEDS[model]), make, **kinds)
        for model, name, kinds, make in rows
    }


CASES = _cases()
