"""Samples of a language model at a checkpoint of its training.

write_samples(parts, captions, Path("runs/lm/samples.png"))
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..generation.generator import VideoGenerator
from ..generation.pretrained import Pretrained
from ..media.contact_sheet import write_contact_sheet

CLIPS, LATENT_FRAMES = 12, 5


def write_samples(parts: Pretrained, captions: Sequence[str], path: Path) -> None:
    """Generate clips and write them as a contact sheet.

    The prompts are always the same few of the captions; where all captions are empty, the clips have no prompt.
    """
    named = [caption for caption in captions if caption]
    frames = parts.tokenizer.compression.frames(LATENT_FRAMES)
    if named:
        chosen = np.random.default_rng(0).choice(len(named), min(CLIPS, len(named)), replace=False)
        prompts = [named[index] for index in chosen]
        videos = VideoGenerator(parts).generate(prompts, num_frames=frames, seed=list(range(len(prompts))))
    else:
        videos = VideoGenerator(parts).generate(None, num_frames=frames, num_videos_per_prompt=CLIPS, seed=0)
    assert isinstance(videos, list)
    write_contact_sheet(path, torch.stack([torch.from_numpy(video.frames) for video in videos]))
