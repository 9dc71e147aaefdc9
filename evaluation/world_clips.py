"""Evaluation on the rendered world: the accuracy of a model's clips, measured from their pixels, and its tokenizer.

    report = evaluate_model(generator, prompts=256)
    print(report)

The captions have held-out combinations of colour, shape and motion, and name every factor that is judged. The report
also has the judge's accuracy on rendered clips, and on the tokenizer's reconstructions of them: the latter is the best
that a language model could reach with this tokenizer.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..bench.machine import library_versions
from ..core.condition import GuidanceMethod
from ..core.errors import require
from ..core.files import check_replaceable, check_writable
from ..core.progress import progress
from ..core.protocols import AnyCodec
from ..generation.generator import VideoGenerator
from ..media.contact_sheet import is_own_sheet, write_contact_sheet
from ..world.caption import write_caption
from ..world.judge import Verdict, accuracy, judge
from ..world.render import render
from ..world.scene import FPS, Scene, sample_scene

FRAMES = 17
BATCH = 32  # clips rendered, encoded or judged at once


class EvaluationReport(dict[str, Any]):
    """The figures by group and name; str() gives a table."""

    def __str__(self) -> str:
        lines = []
        for group, figures in self.items():
            if isinstance(figures, dict):
                lines.append(f"{group.replace('_', ' ')}:")
                lines += [f"  {name.replace('_', ' '):28} {_shown(value)}" for name, value in figures.items()]
            else:
                lines.append(f"{group.replace('_', ' ')}: {_shown(figures)}")
        return "\n".join(lines)


def check_sheet(path: Path) -> None:
    """Check, before any work is done, that a contact sheet can be written, is a .png and replaces no other picture.

    Raises:
        ReelmError: It cannot be written, is no .png, or there is another picture.
    """
    check_writable(path, "contact_sheet")
    require(path.suffix.lower() == ".png", "contact_sheet", "must end in .png", str(path))
    check_replaceable(path, is_own_sheet, argument="contact_sheet")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        inner = ((name.replace("_", " "), f"({_shown(each)})" if isinstance(each, dict) else _shown(each))
                 for name, each in value.items())  # fmt: skip
        return ", ".join(f"{name} {each}" for name, each in inner)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def evaluate_model(
    generator: VideoGenerator,
    *,
    prompts: int = 256,
    two_objects: int = 128,
    clips: int = 256,
    seed: int = 1234,
    batch: int = 16,
    guidance_scale: float | None = None,
    guidance: GuidanceMethod | None = None,
    decoder: str = "auto",
    block_size: int | None = None,
    contact_sheet: Path | None = None,
) -> EvaluationReport:
    """Judge generated clips and measure the tokenizer, with the model's default options where none are given.

    Args:
        generator: The model; its clips must have the size and frame rate of the world.
        prompts: The number of held-out captions of one object.
        two_objects: The number of held-out captions of two objects; 0 leaves them out.
        clips: The number of held-out rendered clips for the tokenizer.
        seed: The seed of the captions, the clips and the sampling.
        batch: The number of clips sampled at once.
        guidance_scale, guidance, decoder, block_size: The options of `generate`; the report has the tokens per pass.
        contact_sheet: The PNG file for the first generated clips, if given.

    Returns:
        The share of clips that show what their caption names, by factor, and the tokenizer's figures; with the number
        of clips, the model, the seed and the split.

    Raises:
        ReelmError: An argument is out of its range.
    """
    for name, value, least in (
        ("prompts", prompts, 1),
        ("two_objects", two_objects, 0),
        ("clips", clips, 1),
        ("batch", batch, 1),
    ):
        require(value >= least, name, f"must be at least {least}", value)
    require(0 <= seed < 2**32, "seed", "must be from 0 to 2**32 - 1", seed)
    if contact_sheet is not None:
        check_sheet(contact_sheet)
    config = generator.parts.config
    require(config.fps == FPS, "model", f"must make clips of {FPS} frames a second, as the world does", config.fps)
    report = EvaluationReport(model=generator.parts.name, seed=seed, split="held-out", frames=FRAMES)
    scenes = [sample_scene(seed, index, split="held-out", objects=1) for index in range(clips)]
    report |= evaluate_tokenizer(generator.parts.tokenizer, scenes, height=config.height, width=config.width)
    options: dict[str, Any] = {"decoder": decoder, "block_size": block_size}
    if guidance_scale is not None:
        options["guidance_scale"] = guidance_scale
    if guidance is not None:
        options["guidance"] = guidance
    for count, objects in ((prompts, 1), (two_objects, 2)):
        if not count:
            continue
        wanted = [sample_scene(seed + 1, index, split="held-out", objects=objects) for index in range(count)]
        captions = [write_caption(s, np.random.default_rng([seed, i]), complete=True) for i, s in enumerate(wanted)]
        frames_BTHW3, decoding = _generate(generator, captions, seed, batch, **options)
        name = "generated_one_object" if objects == 1 else "generated_two_objects"
        report[name] = {"n": count} | accuracy(_judge(frames_BTHW3, objects), wanted) | decoding
        if contact_sheet is not None and objects == 1:
            write_contact_sheet(contact_sheet, frames_BTHW3[:24])
    report["sampling"] = vars(generator.parts.config.sampling) | options
    report["versions"] = library_versions()
    return report


@torch.no_grad()
def evaluate_tokenizer(
    tokenizer: AnyCodec, scenes: list[Scene], *, height: int = 64, width: int = 64
) -> dict[str, dict[str, float | None]]:
    """Measure a tokenizer: PSNR, code use, stability of still backgrounds, and the accuracy of its reconstructions."""
    device, side = tokenizer.device, tokenizer.compression
    frames = side.frames(side.latent_frames(FRAMES))
    psnr, verdicts, truths, tokens, still = [], [], [], [], []
    for start in progress(range(0, len(scenes), BATCH), "tokenizer", unit="batch"):
        part = scenes[start : start + BATCH]
        clips = render(part, frames, height=height, width=width, device=device)
        ids = tokenizer.encode_chunk(clips, None)[0]
        shown = (tokenizer.decode_chunk(ids, None)[0].clamp(0, 1) * 255).round().to(torch.uint8)
        error = (clips.float() - shown.float()).square().mean((1, 2, 3, 4))
        psnr.append(10 * torch.log10(255**2 / error.clamp(min=1e-6)))
        truths += judge(clips.cpu(), objects=1)
        verdicts += judge(shown.cpu(), objects=1)
        tokens.append(ids.cpu())
        still.append(_kept(clips, ids, side.first).cpu())
    counts = torch.bincount(torch.cat(tokens).flatten(), minlength=tokenizer.vocab_size).double()
    shares = counts[counts > 0] / counts.sum()
    kept = torch.cat(still)
    return {
        "judge_on_rendered_clips": {"n": len(scenes), **accuracy(truths, scenes)},
        "judge_on_reconstructions": {"n": len(scenes), **accuracy(verdicts, scenes)},
        "tokenizer": {
            "n": len(scenes),
            "psnr_db": float(torch.cat(psnr).mean()),
            "codes_used": float((counts > 0).double().mean()),
            "code_perplexity": float(torch.exp(-(shares * shares.log()).sum())),
            "still_cells_keep_their_token": float(kept.double().mean()) if len(kept) else None,
        },
    }


def _kept(clips_BTHW3: torch.Tensor, ids_Bthw: torch.Tensor, first: int = 1) -> torch.Tensor:
    """Return, for each still cell, whether it has the same token as one latent frame before.

    A cell is still where no pixel in it, or within half a cell around it, changes over both latent frames, the first of
    which has `first` frames.
    """
    t, h, w = ids_Bthw.shape[1:]
    side = clips_BTHW3.shape[2] // h
    change = (clips_BTHW3[:, 1:] != clips_BTHW3[:, :-1]).any(-1).float()  # (B, T - 1, H, W)
    changed = torch.nn.functional.max_pool2d(change, 2 * side, stride=side, padding=side // 2)[..., :h, :w]
    step = (clips_BTHW3.shape[1] - first) // (t - 1)
    within, later = changed.split([first - 1, (t - 1) * step], 1)  # latent frame 0, and those after it
    moving = later.unflatten(1, (t - 1, step)).amax(2) > 0  # change within, or into, latent frame 1 .. t - 1
    before = torch.cat([within.sum(1, keepdim=True) > 0, moving[:, :-1]], 1)
    still = ~(moving | before)
    return (ids_Bthw[:, 1:] == ids_Bthw[:, :-1])[still]


def _generate(
    generator: VideoGenerator, captions: list[str], seed: int, batch: int, **options: Any
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return the generated clips (B, T, H, W, 3) of these captions, and the entries of the report on their decoder."""
    clips, tokens, passes = [], 0, 0.0
    for start in progress(range(0, len(captions), batch), "generating", unit="batch"):
        part = captions[start : start + batch]
        seeds = [seed * 1_000_003 + start + index for index in range(len(part))]
        videos = generator.generate(part, num_frames=FRAMES, seed=seeds, **options)
        assert isinstance(videos, list)
        clips += [torch.from_numpy(video.frames) for video in videos]
        stats = videos[0].stats
        tokens += stats["tokens"]
        passes += stats["tokens"] / stats["tokens_per_pass"]
    decoding = {"decoder": stats["decoder"], "exactness": stats["exactness"], "tokens_per_pass": tokens / passes}
    return torch.stack(clips), decoding


def _judge(frames_BTHW3: torch.Tensor, objects: int) -> list[Verdict]:
    return [verdict for part in frames_BTHW3.split(BATCH) for verdict in judge(part, objects=objects)]
