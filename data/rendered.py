"""Encode rendered clips to token shards, the training data of the bundled language model.

encode_world(tokenizer, Path("runs/tokens"), clips=40_000, num_frames=17, seed=1)
"""

import contextlib
import itertools
import math
from pathlib import Path

import numpy as np
import torch

from ..core.errors import require
from ..core.progress import progress
from ..core.protocols import AnyCodec
from ..world.caption import write_caption
from ..world.render import render
from ..world.scene import FPS, sample_scene
from .token_shards import shard_origin, write_shard

CAPTIONS_PER_CLIP = 4
CLIPS_PER_SHARD = 4096
BATCH = 64  # clips that are rendered and encoded at once


@torch.no_grad()
def encode_world(
    tokenizer: AnyCodec,
    folder: Path,
    *,
    clips: int,
    num_frames: int,
    seed: int,
    height: int = 64,
    width: int = 64,
) -> None:
    """Render `clips` training clips, encode them and write token shards with `CAPTIONS_PER_CLIP` captions per clip.

    Existing shards of the same tokenizer, clips and size are kept, so that an interrupted run can continue; others of
    the same name are replaced.

    Args:
        tokenizer: The tokenizer that encodes the clips.
        folder: The folder of the token shards.
        clips: The number of clips.
        num_frames: The number of frames of a clip, that of whole latent frames (see `Compression.grid`).
        seed: The seed of the scenes and of the wording of their captions.
        height: The height of a clip in pixels.
        width: The width of a clip in pixels.

    Raises:
        ReelmError: An argument is out of its range.
    """
    require(clips >= 1, "clips", "must be at least 1", clips)
    require(seed >= 0, "seed", "must be at least 0", seed)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.grid(num_frames, height, width)
    device, tokenizer_id = tokenizer.device, tokenizer.tokens_id
    missing = []
    for start in range(0, clips, CLIPS_PER_SHARD):
        stop = min(start + CLIPS_PER_SHARD, clips)
        path = folder / f"world-{seed}-{num_frames}-{start:07d}.safetensors"
        origin = f"tokenizer {tokenizer_id}, clips {start} to {stop}, {height}x{width}"
        if shard_origin(path) != origin:
            missing.append((path, origin, range(start, stop)))
    batches = [numbers[i : i + BATCH] for _, _, numbers in missing for i in range(0, len(numbers), BATCH)]
    label = f"rendering and encoding clips of {num_frames} frames, {BATCH} at once"
    with contextlib.closing(progress(batches, label, unit="batch")) as remaining:
        for path, origin, numbers in missing:
            scenes, tokens = [], []
            for batch in itertools.islice(remaining, math.ceil(len(numbers) / BATCH)):
                drawn = [sample_scene(seed, index, split="train") for index in batch]
                frames = render(drawn, num_frames, height=height, width=width, device=device)
                tokens.append(tokenizer.encode_chunk(frames, None)[0].cpu())
                scenes += drawn
            rngs = [np.random.default_rng([seed, index, 1]) for index in numbers]
            captions = [
                [write_caption(scene, rng) for _ in range(CAPTIONS_PER_CLIP)]
                for scene, rng in zip(scenes, rngs, strict=True)
            ]
            write_shard(path, torch.cat(tokens), captions, fps=FPS, origin=origin)
