"""Rendered clips to token shards: the language model's training data.

encode_world(tokenizer, Path("runs/tokens"), clips=40_000, num_frames=17, seed=1)
"""

from pathlib import Path

import numpy as np
import torch

from ..core.errors import require
from ..core.progress import progress
from ..tokenizer.video_tokenizer import VideoTokenizer
from ..world.caption import write_caption
from ..world.render import render
from ..world.scene import FPS, sample_scene
from .token_shards import shard_origin, write_shard

PHRASINGS = 4  # captions a clip
SHARD = 4096  # clips a file
BATCH = 64


@torch.no_grad()
def encode_world(
    tokenizer: VideoTokenizer,
    folder: Path,
    *,
    clips: int,
    num_frames: int,
    seed: int,
    height: int = 64,
    width: int = 64,
) -> None:
    """Render `clips` training clips, encode them and write token shards with `PHRASINGS` captions each.

    Shards of the same tokenizer, clips and size that are already there are kept, so that an interrupted run goes on;
    others of the same name are made anew.

    Raises:
        ReelmError: an argument is out of its range.
    """
    require(clips >= 1, "clips", "must be at least 1", clips)
    require(seed >= 0, "seed", "must be at least 0", seed)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.grid(num_frames, height, width)
    device, made_by = next(tokenizer.parameters()).device, tokenizer.tokens_id
    for start in progress(range(0, clips, SHARD), f"encoding {clips} clips of {num_frames} frames", unit="shard"):
        stop = min(start + SHARD, clips)
        path = folder / f"world-{seed}-{num_frames}-{start:07d}.safetensors"
        origin = f"tokenizer {made_by}, clips {start} to {stop}, {height}x{width}"
        if shard_origin(path) == origin:
            continue
        scenes = [sample_scene(seed, index, split="train") for index in range(start, stop)]
        tokens = [
            tokenizer.encode(render(scenes[i : i + BATCH], num_frames, height=height, width=width, device=device)).cpu()
            for i in range(0, len(scenes), BATCH)
        ]
        rngs = [np.random.default_rng([seed, start + index, 1]) for index in range(len(scenes))]
        captions = [
            [write_caption(scene, rng) for _ in range(PHRASINGS)] for scene, rng in zip(scenes, rngs, strict=True)
        ]
        write_shard(path, torch.cat(tokens), captions, fps=FPS, origin=origin)
