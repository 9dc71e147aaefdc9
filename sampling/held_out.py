"""Held-out ends of one's own clips, continued beside the truth: does the model know how its world goes on?

report = continue_held_out(generator, ClipShards("shards", "held-out"), Path("runs/lm"))
report["psnr"], report["psnr_of_the_last_frame_repeated"]

A clip that stands still is continued best by its last given frame: what is above that is what the model has learnt.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.contact_sheet import write_contact_sheet
from ..core.errors import require
from ..core.progress import progress
from ..data.clip_shards import ClipShards
from ..data.crops import central_crop
from ..tokenizer.clip_write import write_clip
from .generator import VideoGenerator

COLUMNS = 6


def continue_held_out(
    generator: VideoGenerator, shards: ClipShards, folder: Path, *, predicted: int = 8, most: int = 16, seed: int = 0
) -> dict[str, Any]:
    """Continue the beginnings of held-out samples, and write them beside the truth.

    The folder gets continuations.png, of each clip two rows: the truth, and what was given with its continuation; and
    continuations.mp4, in which they play beside each other, the truth on the left.

    Args:
        generator: the model, of the shards' frame rate.
        shards: the held-out samples, of whose middle the model's size is cut; those that are too short are left out.
        folder: for the picture and the video.
        predicted: frames to continue by, which are compared.
        most: samples.
        seed: of the sampling.

    Returns:
        `psnr`, mean over the samples of the PSNR in dB over all predicted frames; the same for the last given frame,
        repeated; what each sample has of both; how many were given, predicted and left out.

    Raises:
        ReelmError: the model is larger than the samples, or no sample is long enough.
    """
    config = generator.parts.config
    size = (config.height, config.width)
    for name, least, got in zip(("height", "width"), size, (shards.height, shards.width), strict=True):
        require(got >= least, "data", f"must have a {name} of at least {least}, which the model has", got)
    require(predicted >= 1, "predicted", "must be at least 1", predicted)
    given = 1 + 2 * generator.parts.tokenizer.compression.t  # three latent frames: one alone says nothing of motion
    longest = max((sample.frames for sample in shards.samples), default=0)
    rule = f"must have a sample of at least {given + predicted} frames"
    require(longest >= given + predicted, "data", rule, longest)
    chosen = [n for n, sample in enumerate(shards.samples) if sample.frames >= given + predicted][:most]
    rows, beside, samples = [], [], []
    for number in progress(chosen, "continuing", unit="clip"):
        told = shards.samples[number]
        truth = central_crop(torch.from_numpy(shards.read(number, 0, given + predicted)), *size).numpy()
        prompt = told.captions[0] if told.captions else None
        video = generator.continue_clip(truth[:given], num_frames=predicted, prompt=prompt, seed=seed)
        shown = video.frames[: given + predicted]
        still = np.broadcast_to(truth[given - 1], truth[given:].shape)
        samples.append({
            "source": told.source, "psnr": _psnr(shown[given:], truth[given:]), "still": _psnr(still, truth[given:]),
        })  # fmt: skip
        rows += [truth, shown]
        beside.append(np.concatenate([truth, shown], 2))
    folder.mkdir(parents=True, exist_ok=True)
    write_contact_sheet(folder / "continuations.png", torch.from_numpy(np.stack(rows)), columns=COLUMNS, scale=1)
    write_clip(folder / "continuations.mp4", np.concatenate(beside), config.fps)
    return {
        "n": len(samples), "left_out": len(shards.samples) - len(chosen), "given_frames": given,
        "predicted_frames": predicted, "height": size[0], "width": size[1], "split": shards.split,
        "psnr": float(np.mean([sample["psnr"] for sample in samples])),
        "psnr_of_the_last_frame_repeated": float(np.mean([sample["still"] for sample in samples])),
        "samples": samples,
    }  # fmt: skip


def _psnr(shown: np.ndarray, truth: np.ndarray) -> float:
    error = np.square(shown.astype(np.float64) - truth).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-6)))
