"""The command that trains a language model and writes a checkpoint of the whole model: train lm."""

import dataclasses
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from .base import RunCommand, config_options
from .data import summary
from .parser import Option

if TYPE_CHECKING:
    from ..training.run_reports import LanguageModelReport


def _windows_options() -> type:
    from ..data.encode import Windows
    from ..training.clip_tokens import OWN_WINDOWS

    return config_options(Windows, default=OWN_WINDOWS, leave_out=("seed",))


def _lm_options() -> type:
    from ..training.lm_training import DERIVED, LMTraining

    return config_options(LMTraining, leave_out=DERIVED)


def _sampling_options() -> type:
    from ..sampling.plan import SamplingConfig

    return config_options(SamplingConfig)


@dataclass(frozen=True, kw_only=True)
class TrainLM(RunCommand):
    """Train a language model, and write the checkpoint folder that --model loads.

    If the data are clips, they are first encoded to tokens. Of all checkpoints of the run, the one with the lowest loss
    on the held-out ends of the clips is kept. It continues these clips, and continuations.png and .mp4 show the result
    next to the original. The folder has a model card, README.md, of how the model was trained and what was measured.

    Attributes:
        data: The folder of token shards, of clips that reelm prepare made, or of any clips.
        tokenizer: The folder of the trained tokenizer that encodes, or has encoded, the clips.
        fps: The frames per second of all clips, if they are not prepared; the median of their own rates unless given.
        text: The text model; unless given, it is trained on the captions.
        init: The model whose weights are the start (a bundled name or a folder); the weights are random unless given. A
            converted model is trained further on token shards of its own tokenizer.
        name: The name of the model, that of the folder --out unless given.
        windows: The windows that are cut out of clips, if the data are clips.
        sampling: The default sampling settings of the model; without guidance if no clip has a caption.
    """

    example = "reelm train lm --data my_clips --tokenizer runs/tokenizer --out runs/lm"
    data: Path | None = None
    tokenizer: Path | None = None
    fps: float | None = None
    text: Path | None = None
    init: str | None = None
    name: str | None = None
    windows: Annotated[Any, Option(group=_windows_options)]
    sampling: Annotated[Any, Option(group=_sampling_options)]
    recipe: Annotated[Any, Option(group=_lm_options, prefixed=False)]

    def recorded(self) -> object | None:
        """Return the options of the run that goes on."""
        from ..training.run_options import ModelRun, recorded_options

        return recorded_options(self.out, ModelRun) if self.resume else None

    def train(self) -> int:
        """Train a language model, and print what became of it."""
        from ..core.config import from_dict
        from ..core.memory import keep_freed_memory
        from ..data.encode import Windows
        from ..sampling.plan import SamplingConfig
        from ..training.lm_training import LMTraining
        from ..training.recipes import train_language_model

        keep_freed_memory()
        options = dataclasses.asdict(self.recipe)
        recipe = from_dict(LMTraining, {**options, "model": options["model"] | {"vocab_size": 1}}, "options")
        report = train_language_model(
            self.out, data=self.data, tokenizer=self.tokenizer, fps=self.fps, text=self.text, init=self.init,
            name=self.name, windows=from_dict(Windows, dataclasses.asdict(self.windows), "options"),
            sampling=from_dict(SamplingConfig, dataclasses.asdict(self.sampling), "options"), recipe=recipe,
            device=self.device, resume=self.resume,
        )  # fmt: skip
        if report.prepared is not None:
            print(summary(report.prepared))
        code = self.print_progress(f"a model for --model {shlex.quote(str(report.model))},", report.progress)
        for line in _measured(report):
            print(line)
        if report.progress.finished:
            print(f"next: reelm continue CLIP --model {shlex.quote(str(report.model))} --seconds 2 -o on.mp4")
        return code


def _measured(report: "LanguageModelReport") -> Iterator[str]:
    """Yield one line for the loss on held-out tokens, and one for the continuations of held-out clips."""
    best, last, continued = report.best, report.last, report.continuations
    if best is not None and last is not None:
        yield (
            f"the model is that of step {best.step}: {best.nats_per_token:.3f} nats a held-out token "
            f"(step {last.step}: {last.nats_per_token:.3f})"
        )
    if continued is not None:
        yield (
            f"continued {continued.clips} held-out clips by {continued.predicted_frames} frames: {continued.psnr:.2f} "
            f"dB, the last frame repeated {continued.psnr_of_the_last_frame_repeated:.2f} dB; "
            f"see {report.out / 'continuations.png'}"
        )
    elif report.least_frames is not None and report.progress.finished:
        yield (
            f"no held-out sample has {report.least_frames} frames: nothing to continue "
            "(reelm prepare --held-out-seconds)"
        )
