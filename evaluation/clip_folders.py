"""Evaluation on a folder of clips: `reelm evaluate tokenizer` and `reelm evaluate model` call it.

    print(evaluate_tokenizer_on_clips(Path("shards"), Path("runs/tokenizer")))
    report = evaluate_on_clips(VideoGenerator.from_pretrained("runs/lm/model"), Path("shards"))
    report["nats_per_token"], report["device"], report["skipped"]

The figures are those of tokenizers.py and own_clips.py; the report also names the clips, and the machine on which they
were measured.
"""

from itertools import islice
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..bench.machine import library_versions, machine_name
from ..core.checkpoint import find_checkpoint, save_json
from ..core.errors import require
from ..core.folders import check_folder, mark_folder
from ..core.json_values import Json
from ..core.memory import peak_memory_bytes
from ..data.sample_clips import SampleClips, sample_clips
from ..generation.generator import VideoGenerator
from ..generation.pretrained import load_pretrained
from ..generation.video import Video
from ..media.fitting import Fit
from ..tokenizer.codec_files import load_tokenizer
from .continuations import given_frames
from .fvd import USUAL_FRAMES
from .own_clips import evaluate_own_clips
from .tokenizers import evaluate_clips
from .world_clips import EvaluationReport, check_sheet


class ClipReport(EvaluationReport):
    """The figures by name, and under "clips" those of each clip; str() gives a table without the latter."""

    def __str__(self) -> str:
        shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in self.items()}
        return "\n".join(f"{name.replace('_', ' '):42} {value}" for name, value in shown.items() if name != "clips")


def evaluate_tokenizer_on_clips(
    folder: Path,
    tokenizer: Path | None = None,
    *,
    split: str = "held-out",
    max_frames: int = 65,
    fps: float | None = None,
    lpips_weights: Path | None = None,
    fvd_weights: Path | None = None,
    contact_sheet: Path | None = None,
    device: str = "auto",
) -> ClipReport:
    """Measure a tokenizer on clips: similarity, motion, codes, seams and speed (needs the `metrics` extra).

    Args:
        folder: The folder of clips that `prepare` made, or of any clips.
        tokenizer: The folder of a tokenizer's training; by default the tokenizer of the bundled model is measured.
        split: The split of prepared clips: train or held-out. Other folders have no split; their clips are measured
            whole.
        max_frames: The largest number of frames of each clip, from its beginning.
        fps: The frames per second at which the clips are taken; their own unless given.
        lpips_weights: The file of a network with the signature of StyleGAN's vgg16.pt, for LPIPS; none is downloaded.
        fvd_weights: The file of a network with the signature of StyleGAN-V's i3d_torchscript.pt, for FVD of the first
            16 frames.
        contact_sheet: A PNG file to write, with truth, reconstruction and difference.
        device: The device: auto, cpu or cuda[:n].

    Returns:
        The figures of `evaluate_clips`; the model; the source, split and size of the clips; skipped, the (file, reason)
        of each file that could not be read; the machine, the versions, and peak_memory_bytes of the process or of the
        GPU's allocator.

    Raises:
        ReelmError: An argument is refused, or no clip can be read.
    """
    require(max_frames >= 1, "max_frames", "must be at least 1", max_frames)
    if contact_sheet is not None:
        check_sheet(contact_sheet)
    if tokenizer is None:
        model = load_pretrained(find_checkpoint("world"), device=device).tokenizer
    else:
        model = load_tokenizer(tokenizer, device=device)
    clips = sample_clips(folder, split=split, max_frames=max_frames, fps=fps)
    figures = evaluate_clips(
        model, clips, contact_sheet=contact_sheet, lpips_weights=lpips_weights, fvd_weights=fvd_weights,
        fvd_frames=min(USUAL_FRAMES, max_frames),
    )  # fmt: skip
    return ClipReport(
        model=str(tokenizer or "world"), **_source(clips), size=_sizes(figures["clips"]), **figures,
        **_machine(model.device), skipped=clips.skipped,
    )  # fmt: skip


def evaluate_on_clips(
    generator: VideoGenerator,
    folder: Path,
    *,
    split: str = "held-out",
    clips: int = 32,
    max_frames: int = 65,
    fps: float | None = None,
    num_frames: int = 8,
    seed: int = 0,
    fit: Fit = "crop",
    fvd_weights: Path | None = None,
    out: Path | None = None,
) -> ClipReport:
    """Measure a model on a user's clips: nats and bits, continuations and speed (needs the `metrics` extra).

    Args:
        generator: The model.
        folder: The folder of clips that `prepare` made, or of any clips; they are fitted to the model's size and frame
            rate.
        split: The split of prepared clips: train or held-out. Other folders have no split; their clips are measured
            whole.
        clips: The largest number of clips, in the order of their names.
        max_frames: The largest number of frames of each clip, from its beginning, at the rate at which it is taken.
        fps: The frames per second at which the clips are taken, that of the model unless given. The model is told
            nothing: at half of its own rate, everything moves twice as fast for it.
        num_frames: The number of frames to continue each clip by, after its first three latent frames.
        seed: The seed of the sampling.
        fit: How pictures of another aspect ratio are fitted: crop, pad or stretch.
        fvd_weights: The file of a network with the signature of StyleGAN-V's i3d_torchscript.pt, for FVD.
        out: The folder for evaluation.json, continuations.png and continuations.mp4, if given.

    Returns:
        The figures of `evaluate_own_clips`; the model; the source and split of the clips; the size, frame rate, seed
        and precisions of the model; skipped, the machine, the versions and peak_memory_bytes, as for
        `evaluate_tokenizer_on_clips`.

    Raises:
        ReelmError: An argument is refused, or no clip can be read.
    """
    require(clips >= 1, "clips", "must be at least 1", clips)
    require(num_frames >= 1, "num_frames", "must be at least 1", num_frames)
    if out is not None:
        check_folder(out, "evaluation")
    source = sample_clips(folder, split=split, max_frames=max_frames, fps=fps)
    least = given_frames(generator) + num_frames
    require(max_frames >= least, "max_frames", f"must be at least {least}", max_frames)
    parts, config = generator.parts, generator.parts.config
    fitted = source.fitted(fps=fps or config.fps, height=config.height, width=config.width, fit=fit)
    if out is not None:
        mark_folder(out, "evaluation")
    figures = evaluate_own_clips(
        generator,
        ((name, Video(frames, config.fps, prompt=caption)) for name, frames, caption in islice(fitted, clips)),
        predicted=num_frames, seed=seed, fvd_weights=fvd_weights, folder=out, total=min(clips, len(source)),
    )  # fmt: skip
    report = ClipReport(
        model=parts.name, **_source(source), size=f"{config.width}x{config.height}", fps=fps or config.fps, seed=seed,
        **figures, **_machine(parts.lm.device), **parts.lm.numerics.precisions, skipped=source.skipped,
    )  # fmt: skip
    if out is not None:
        save_json(out / "evaluation.json", report)
    return report


def _sizes(clips: Any) -> str:
    """Return the different sizes of the clips of a report, in their order."""
    return ", ".join(dict.fromkeys(f"{clip['width']}x{clip['height']}" for clip in clips))


def _source(clips: SampleClips) -> dict[str, str]:
    """Return the entries of a report that name the clips."""
    return {"source": clips.folder.resolve().name, "split": clips.split}


def _machine(device: torch.device) -> Json:
    """Return the entries of a report that name the machine; the peak memory is that of the process or GPU allocator."""
    return {
        "peak_memory_bytes": peak_memory_bytes(device), "reelm": __version__, "torch": torch.__version__,
        "versions": {**library_versions()}, "device": f"{device.type}: {machine_name(device)}",
        "threads": torch.get_num_threads(),
    }  # fmt: skip
