"""What a training run leaves, as typed values that are read from the files in its folder.

RunProgress.read(Path("runs/lm"))                   # RunProgress(step=2250, steps=2250)
HeldOutFigures.read(Path("runs/tokenizer"))         # PSNR of held-out clips, None where there were none
"""

from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from ..core.checkpoint import read_json
from ..core.config import from_dict
from ..data.prepare import Report


@dataclass(frozen=True)
class RunProgress:
    """How far a run has come.

    Attributes:
        step: optimizer steps that were made.
        steps: of the whole run; fewer were made where it was stopped by a signal.
    """

    step: int
    steps: int

    @classmethod
    def read(cls, out: Path) -> "RunProgress":
        """How far the run in a folder has come.

        Raises:
            OSError: there is no run in it.
        """
        with safe_open(out / "state.safetensors", framework="pt") as file:
            values = file.metadata()
        return cls(int(values["step"]), int(values["steps"]))

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.step >= self.steps


@dataclass(frozen=True)
class HeldOutClip:
    """A held-out clip: its size, and the PSNR in dB of its reconstruction, mean over the frames."""

    name: str
    frames: int
    height: int
    width: int
    psnr: float


@dataclass(frozen=True)
class HeldOutFigures:
    """Of a tokenizer's reconstructions of held-out clips.

    Attributes:
        step: of the checkpoint.
        split: the clips' split.
        psnr: mean over the clips in dB.
        codebook_use: share of the codes that occur in the clips' tokens.
        perplexity: of the distribution of these codes.
        tokens: how many.
        clips: each clip's own figures.
    """

    step: int
    split: str
    psnr: float
    codebook_use: float
    perplexity: float
    tokens: int
    clips: tuple[HeldOutClip, ...]

    @classmethod
    def read(cls, out: Path) -> "HeldOutFigures | None":
        """The figures of the last checkpoint of a tokenizer's run, if clips were held out."""
        path = out / "held-out.json"
        return from_dict(cls, read_json(path), path.name) if path.exists() else None


@dataclass(frozen=True)
class TokenizerReport:
    """A run that trains a tokenizer.

    Attributes:
        out: the folder of the run, with tokenizer.json and tokenizer.safetensors.
        progress: how far it came.
        held_out: figures of held-out clips, if there were any.
        prepared: the report of preparing the clips, where that was done now.
    """

    out: Path
    progress: RunProgress
    held_out: HeldOutFigures | None
    prepared: Report | None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was measured: its step, and what a held-out token costs it in nats."""

    step: int
    nats_per_token: float


@dataclass(frozen=True)
class ContinuationFigures:
    """Of held-out clips that a model continued; continuations.json has each clip's own.

    Attributes:
        clips: how many.
        predicted_frames: frames that each was continued by.
        psnr: mean over the clips in dB, of the predicted frames.
        psnr_of_the_last_frame_repeated: the same of the last given frame, repeated.
    """

    clips: int
    predicted_frames: int
    psnr: float
    psnr_of_the_last_frame_repeated: float


@dataclass(frozen=True)
class LanguageModelReport:
    """A run that trains a language model.

    Attributes:
        out: the folder of the run.
        model: the checkpoint folder in it, which `VideoGenerator.from_pretrained` loads.
        progress: how far it came.
        best: the checkpoint whose weights the model has; None where nothing was held out, and they are the last ones.
        last: the last checkpoint, if it was measured.
        least_frames: frames of the shortest held-out clip that could be continued; None where the data were tokens.
        continuations: of the held-out clips, if one was long enough.
        prepared: the report of preparing the clips, where that was done now.
    """

    out: Path
    model: Path
    progress: RunProgress
    best: Checkpoint | None
    last: Checkpoint | None
    least_frames: int | None
    continuations: ContinuationFigures | None
    prepared: Report | None
