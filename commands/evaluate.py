"""The commands that judge: evaluate (the rendered world), evaluate tokenizer and evaluate model (one's own clips)."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from .. import __version__
from ..core.errors import require
from ..core.files import check_writable
from .base import Command, ModelCommand, strict_json

if TYPE_CHECKING:
    import torch


def _check_sheet(contact_sheet: Path | None) -> None:
    if contact_sheet is not None:
        path = check_writable(contact_sheet, "contact_sheet")
        require(path.suffix.lower() == ".png", "contact_sheet", "must end in .png", str(path))


def _stamp(device: "torch.device") -> dict[str, Any]:
    """On what the figures were measured; the peak is the whole process's (getrusage), or of a GPU its allocator's."""
    import torch

    from ..bench.machine import machine_name
    from ..core.memory import peak_memory_bytes

    return {
        "peak_memory_bytes": peak_memory_bytes(device), "reelm": __version__, "torch": torch.__version__,
        "device": f"{device.type}: {machine_name(device)}", "threads": torch.get_num_threads(),
    }  # fmt: skip


def _print(report: dict[str, Any], *, alone: bool) -> None:
    """A table, unless JSON is to stand alone, and one line of JSON."""
    if not alone:
        for name, value in report.items():
            if name != "clips":
                print(f"{name.replace('_', ' '):42} {f'{value:.4g}' if isinstance(value, float) else value}")
    print(strict_json(report))


@dataclass(frozen=True, kw_only=True)
class Evaluate(ModelCommand):
    """Judge a model's clips of held-out captions, and its tokenizer; the last line is one JSON document.

    Attributes:
        prompts: held-out captions of one object.
        two_objects: held-out captions of two objects; 0 leaves them out.
        clips: held-out rendered clips for the tokenizer.
        seed: of the captions, the clips and the sampling.
        batch: clips sampled at once.
        guidance_scale: the model's own unless given; 1 is off.
        decoder: auto, sequential, jacobi or diagonal.
        block_size: tokens that jacobi looks at in a pass.
        contact_sheet: a PNG to write, with the first generated clips.
    """

    one_thread = False  # batches are large
    example = "reelm evaluate --prompts 256 --contact-sheet sheet.png"
    prompts: int = 256
    two_objects: int = 128
    clips: int = 256
    seed: int = 1234
    batch: int = 16
    guidance_scale: float | None = None
    decoder: str = "auto"
    block_size: int | None = None
    contact_sheet: Path | None = None

    def run(self) -> int:
        from ..evaluation.world_clips import evaluate_model

        _check_sheet(self.contact_sheet)
        report = evaluate_model(
            self.load(), prompts=self.prompts, two_objects=self.two_objects, clips=self.clips, seed=self.seed,
            batch=self.batch, guidance_scale=self.guidance_scale, decoder=self.decoder, block_size=self.block_size,
            contact_sheet=self.contact_sheet,
        )  # fmt: skip
        print(*([] if self.json else [report]), strict_json(report), sep="\n")
        return 0


@dataclass(frozen=True, kw_only=True)
class EvaluateTokenizer(Command):
    """Measure a tokenizer on clips: likeness, motion, codes, seams, speed; the last line is one JSON document.

    Attributes:
        folder: clips that reelm prepare made, or any clips.
        tokenizer: the folder of a tokenizer's training; the bundled model's tokenizer unless given.
        split: of prepared clips, train or held-out; of other folders whole clips are taken.
        max_frames: of each clip, from its beginning.
        lpips_weights: a TorchScript network with the signature of StyleGAN's vgg16.pt, for LPIPS; none is downloaded.
        fvd_weights: one with the signature of StyleGAN-V's i3d_torchscript.pt, for FVD of the first 16 frames.
        contact_sheet: a PNG to write: truth, reconstruction, difference.
        device: auto, cpu or cuda[:n].
        json: print one JSON document and nothing else.
    """

    example = "reelm evaluate tokenizer shards --tokenizer runs/tokenizer --contact-sheet sheet.png"
    folder: Annotated[Path, tyro.conf.Positional]
    tokenizer: Path | None = None
    split: str = "held-out"
    max_frames: int = 65
    lpips_weights: Path | None = None
    fvd_weights: Path | None = None
    contact_sheet: Path | None = None
    device: str = "auto"
    json: bool = False

    def run(self) -> int:
        from ..core.checkpoint import find_checkpoint
        from ..data.sample_clips import sample_clips
        from ..evaluation.fvd import USUAL_FRAMES
        from ..evaluation.tokenizers import evaluate_clips
        from ..generation.pretrained import load_pretrained
        from ..tokenizer.video_tokenizer import load_tokenizer

        require(self.max_frames >= 1, "max_frames", "must be at least 1", self.max_frames)
        _check_sheet(self.contact_sheet)
        if self.tokenizer is None:
            tokenizer = load_pretrained(find_checkpoint("world"), device=self.device).tokenizer
        else:
            tokenizer = load_tokenizer(self.tokenizer, device=self.device)
        clips = sample_clips(self.folder, split=self.split, max_frames=self.max_frames)
        told = evaluate_clips(
            tokenizer, clips, contact_sheet=self.contact_sheet, lpips_weights=self.lpips_weights,
            fvd_weights=self.fvd_weights, fvd_frames=min(USUAL_FRAMES, self.max_frames),
        )  # fmt: skip
        sizes = dict.fromkeys(f"{clip['width']}x{clip['height']}" for clip in told["clips"])
        report = {
            "model": str(self.tokenizer or "world"), "source": self.folder.resolve().name, "split": clips.split,
            "size": ", ".join(sizes), **told, **_stamp(next(tokenizer.parameters()).device), "skipped": clips.skipped,
        }  # fmt: skip
        _print(report, alone=self.json)
        return 0


@dataclass(frozen=True, kw_only=True)
class EvaluateModel(ModelCommand):
    """Measure a model on clips of one's own: nats and bits, continuations, speed; the last line is one JSON document.

    Attributes:
        folder: clips that reelm prepare made, or any clips; they are made to fit the model's size and frame rate.
        split: of prepared clips, train or held-out; of other folders whole clips are taken.
        clips: the most clips, in the order of their names.
        max_frames: of each clip, from its beginning, at the model's frame rate.
        num_frames: frames to continue each clip by, after its first three latent frames.
        seed: of the sampling.
        fit: how another shape of picture is fitted: crop, pad or stretch.
        fvd_weights: a TorchScript network with the signature of StyleGAN-V's i3d_torchscript.pt, for FVD.
        out: a folder for evaluation.json, continuations.png and continuations.mp4, if given.
    """

    example = "reelm evaluate model shards --model runs/lm/model --out runs/evaluation"
    folder: Annotated[Path, tyro.conf.Positional]
    split: str = "held-out"
    clips: int = 32
    max_frames: int = 65
    num_frames: int = 8
    seed: int = 0
    fit: Literal["crop", "pad", "stretch"] = "crop"
    fvd_weights: Path | None = None
    out: Path | None = None

    def run(self) -> int:
        from ..core.checkpoint import save_json
        from ..data.sample_clips import sample_clips
        from ..evaluation.continuations import given_frames
        from ..evaluation.own_clips import evaluate_own_clips
        from ..generation.video import Video

        require(self.clips >= 1, "clips", "must be at least 1", self.clips)
        require(self.num_frames >= 1, "num_frames", "must be at least 1", self.num_frames)
        if self.out is not None:
            require(not self.out.exists() or self.out.is_dir(), "out", "must be a folder", str(self.out))
        source = sample_clips(self.folder, split=self.split, max_frames=self.max_frames)
        generator = self.load()
        least = given_frames(generator) + self.num_frames
        require(self.max_frames >= least, "max_frames", f"must be at least {least}", self.max_frames)
        config = generator.parts.config
        size = {"height": config.height, "width": config.width}
        fitted = source.fitted(fps=config.fps, **size, fit=self.fit)
        told = evaluate_own_clips(
            generator,
            ((name, Video(frames, config.fps, prompt=caption)) for name, frames, caption in islice(fitted, self.clips)),
            predicted=self.num_frames, seed=self.seed, fvd_weights=self.fvd_weights, folder=self.out,
        )  # fmt: skip
        report = {
            "model": generator.parts.name, "source": self.folder.resolve().name, "split": source.split,
            "size": f"{config.width}x{config.height}", "fps": config.fps, "seed": self.seed, **told,
            **_stamp(generator.parts.lm.device), **generator.parts.lm.numerics.precisions,
            "skipped": source.skipped,
        }  # fmt: skip
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            save_json(self.out / "evaluation.json", report)
        _print(report, alone=self.json)
        return 0
