"""The commands that measure quality: evaluate (on rendered clips), evaluate tokenizer and evaluate model (on any)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from .base import Command, ModelCommand, print_report
from .parser import Option


@dataclass(frozen=True, kw_only=True)
class Evaluate(ModelCommand):
    """Measure how well a model follows held-out captions, and its tokenizer; the last line is one JSON document.

    Attributes:
        prompts: The number of held-out captions of one object.
        two_objects: The number of held-out captions of two objects; 0 leaves them out.
        clips: The number of held-out rendered clips for the tokenizer.
        seed: The seed of the captions, the clips and the sampling.
        batch: The number of clips that are sampled at once.
        guidance_scale: The guidance scale, the model's own unless given; 1 turns guidance off.
        guidance: The method of guidance, the model's own unless given: two-row by its definition, auto in one row where
            the model has learnt the scale.
        decoder: The decoder that finds the tokens: auto, sequential, jacobi or diagonal.
        block_size: The number of positions that jacobi computes in a pass.
        contact_sheet: The PNG file to write the first generated clips to.
    """

    one_thread = False  # large batches are faster with several threads
    example = "reelm evaluate --prompts 256 --contact-sheet sheet.png"
    prompts: int = 256
    two_objects: int = 128
    clips: int = 256
    seed: int = 1234
    batch: int = 16
    guidance_scale: float | None = None
    guidance: Literal["auto", "two-row"] | None = None
    decoder: str = "auto"
    block_size: int | None = None
    contact_sheet: Path | None = None

    def run(self) -> int:
        from ..evaluation.world_clips import check_sheet, evaluate_model

        if self.contact_sheet is not None:
            check_sheet(self.contact_sheet)
        report = evaluate_model(
            self.load(), prompts=self.prompts, two_objects=self.two_objects, clips=self.clips, seed=self.seed,
            batch=self.batch, guidance_scale=self.guidance_scale, guidance=self.guidance, decoder=self.decoder,
            block_size=self.block_size, contact_sheet=self.contact_sheet,
        )  # fmt: skip
        print_report(report, json_alone=self.json)
        return 0


@dataclass(frozen=True, kw_only=True)
class EvaluateTokenizer(Command):
    """Measure a tokenizer on clips: similarity, motion, codes, seams, speed; the last line is one JSON document.

    Attributes:
        folder: The folder of clips that reelm prepare made, or of any clips.
        tokenizer: The folder of a trained tokenizer; the bundled model's tokenizer unless given.
        split: The split of prepared clips, train or held-out; other folders have no split, and their clips are whole.
        max_frames: The most frames of each clip, from its beginning.
        fps: The frames per second at which the clips are taken; their own unless given.
        lpips_weights: The file of a network for LPIPS, with the signature of StyleGAN's vgg16.pt; none is downloaded.
        fvd_weights: The file of a network for FVD of the first 16 frames, with the signature of StyleGAN-V's
            i3d_torchscript.pt.
        contact_sheet: The PNG file to write the original, the reconstruction and their difference to.
        device: The device to compute on: auto, cpu or cuda[:n].
        json: Print one JSON document and nothing else.
    """

    example = "reelm evaluate tokenizer shards --tokenizer runs/tokenizer --contact-sheet sheet.png"
    folder: Annotated[Path, Option(positional=True)]
    tokenizer: Path | None = None
    split: str = "held-out"
    max_frames: int = 65
    fps: float | None = None
    lpips_weights: Path | None = None
    fvd_weights: Path | None = None
    contact_sheet: Path | None = None
    device: str = "auto"
    json: bool = False

    def run(self) -> int:
        from ..evaluation.clip_folders import evaluate_tokenizer_on_clips

        report = evaluate_tokenizer_on_clips(
            self.folder, self.tokenizer, split=self.split, max_frames=self.max_frames, fps=self.fps,
            lpips_weights=self.lpips_weights, fvd_weights=self.fvd_weights, contact_sheet=self.contact_sheet,
            device=self.device,
        )  # fmt: skip
        print_report(report, json_alone=self.json)
        return 0


@dataclass(frozen=True, kw_only=True)
class EvaluateModel(ModelCommand):
    """Measure a model on your own clips: nats and bits, continuations, speed; the last line is one JSON document.

    Attributes:
        folder: The folder of clips that reelm prepare made, or of any clips; they are fitted to the size and frame rate
            of the model.
        split: The split of prepared clips, train or held-out; other folders have no split, and their clips are whole.
        clips: The most clips to measure, in the order of their names.
        max_frames: The most frames of each clip, from its beginning, at the rate at which it is taken.
        fps: The frames per second at which the clips are taken; those of the model unless given.
        num_frames: The number of frames by which each clip is continued after its first three latent frames.
        seed: The seed of the sampling.
        fit: How a picture of another shape is fitted: crop, pad or stretch.
        fvd_weights: The file of a network for FVD, with the signature of StyleGAN-V's i3d_torchscript.pt.
        out: The folder for evaluation.json, continuations.png and continuations.mp4; not written unless given.
    """

    example = "reelm evaluate model shards --model runs/lm/model --out runs/evaluation"
    folder: Annotated[Path, Option(positional=True)]
    split: str = "held-out"
    clips: int = 32
    max_frames: int = 65
    fps: float | None = None
    num_frames: int = 8
    seed: int = 0
    fit: Literal["crop", "pad", "stretch"] = "crop"
    fvd_weights: Path | None = None
    out: Path | None = None

    def run(self) -> int:
        from ..evaluation.clip_folders import evaluate_on_clips

        report = evaluate_on_clips(
            self.load(), self.folder, split=self.split, clips=self.clips, max_frames=self.max_frames, fps=self.fps,
            num_frames=self.num_frames, seed=self.seed, fit=self.fit, fvd_weights=self.fvd_weights, out=self.out,
        )  # fmt: skip
        print_report(report, json_alone=self.json)
        return 0


@dataclass(frozen=True, kw_only=True)
class EvaluatePlay(ModelCommand):
    """Measure how often a model that is played does what the keys do in the game; the last line is one JSON document.

    Attributes:
        recordings: The folder of clips of the game with their keys beside them, of more than a minute each, in which
            keys are held alone; those that came with the model unless given.
        save_recordings: Keep what was measured of the recordings in the model's folder, for calls without them.
        plays: The most recordings to play; all unless given.
        samples: The clips that the model makes of each.
        seed: The seed of the noise, and of the keys of the long play.
        minutes: The minutes of a play under random keys whose last one is compared with the first; 0 is none.
        contact_sheet: The PNG file to write the first seconds of the first clips to.
    """

    one_thread = False
    example = "reelm evaluate play --model runs/game/model --recordings held-out --minutes 10"
    model: str = "run"
    recordings: Path | None = None
    save_recordings: bool = False
    plays: int | None = None
    samples: int = 4
    seed: int = 0
    minutes: int = 0
    contact_sheet: Path | None = None

    def run(self) -> int:
        from ..evaluation.playing import evaluate_play

        report = evaluate_play(
            self.load(), self.recordings, save_recordings=self.save_recordings, plays=self.plays, samples=self.samples,
            seed=self.seed, minutes=self.minutes, contact_sheet=self.contact_sheet,
        )  # fmt: skip
        print_report(report, json_alone=self.json)
        return 0
