"""Reports of training runs: typed values that are read from the files in the folder of a run.

RunProgress.read(Path("runs/lm"))                   # RunProgress(step=2250, steps=2250)
HeldOutFigures.read(Path("runs/tokenizer"))         # PSNR etc. of held-out clips; None where there were none
"""

from dataclasses import dataclass
from pathlib import Path

from ..core.checkpoint import read_json
from ..core.config import from_dict
from ..core.errors import require
from ..data.prepare import Report
from .state_folders import newest_state


@dataclass(frozen=True)
class RunProgress:
    """The progress of a run.

    Attributes:
        step: The number of optimizer steps made so far.
        steps: The number of steps of the whole run; `step` is smaller where a signal stopped the run.
    """

    step: int
    steps: int

    @classmethod
    def read(cls, out: Path) -> "RunProgress":
        """Read the progress of the run in a folder.

        Raises:
            ReelmError: The folder holds no state of a run.
        """
        saved = newest_state(out)
        require(saved is not None, "out", "must hold a state of a run", str(out))
        assert saved is not None
        values = saved.values()
        return cls(values.step, values.steps)

    @property
    def finished(self) -> bool:
        """Whether all steps of the run were made."""
        return self.step >= self.steps


@dataclass(frozen=True)
class HeldOutClip:
    """The size of a held-out clip, and the PSNR in dB of its reconstruction, averaged over the frames."""

    name: str
    frames: int
    height: int
    width: int
    psnr: float


@dataclass(frozen=True)
class HeldOutFigures:
    """The figures of a tokenizer's reconstructions of held-out clips.

    Attributes:
        step: The step of the checkpoint.
        split: The split of the clips.
        psnr: The PSNR in dB, averaged over the clips.
        codebook_use: The share of all codes that occur in the clips' tokens.
        perplexity: The perplexity of the distribution of these codes.
        tokens: The number of tokens.
        clips: The figures of each clip.
    """

    step: int
    split: str
    psnr: float
    codebook_use: float
    perplexity: float
    tokens: int
    clips: tuple[HeldOutClip, ...]

    @property
    def least_psnr(self) -> float:
        """The lowest PSNR in dB of a clip."""
        return min(clip.psnr for clip in self.clips)

    @classmethod
    def read(cls, out: Path) -> "HeldOutFigures | None":
        """Read the figures of the checkpoint that a tokenizer is; None where no clips were held out."""
        path = out / "held-out.json"
        return from_dict(cls, read_json(path), path.name) if path.exists() else None


@dataclass(frozen=True)
class TokenizerReport:
    """The report of a run that trains a tokenizer.

    Attributes:
        out: The folder of the run, with tokenizer.json and tokenizer.safetensors.
        progress: The progress of the run.
        held_out: The figures of held-out clips, if there were any.
        prepared: The report of preparing the clips, if this call prepared them.
    """

    out: Path
    progress: RunProgress
    held_out: HeldOutFigures | None
    prepared: Report | None


@dataclass(frozen=True)
class Checkpoint:
    """A measured checkpoint: its step, and its mean loss of a held-out token in nats.

    The loss is the cross-entropy, or in a distillation of guidance the divergence from the guided distribution.
    """

    step: int
    nats_per_token: float


@dataclass(frozen=True)
class ContinuationFigures:
    """The figures of a model's continuations of held-out clips; continuations.json has those of each clip.

    Attributes:
        clips: The number of clips.
        predicted_frames: The number of frames that each clip was continued by.
        psnr: The PSNR in dB of the predicted frames, averaged over the clips.
        psnr_of_the_last_frame_repeated: The same PSNR of the last given frame, repeated.
    """

    clips: int
    predicted_frames: int
    psnr: float
    psnr_of_the_last_frame_repeated: float


@dataclass(frozen=True)
class LanguageModelReport:
    """The report of a run that trains a language model.

    Attributes:
        out: The folder of the run.
        model: The checkpoint folder in it, which `VideoGenerator.from_pretrained` loads.
        progress: The progress of the run.
        best: The checkpoint whose weights the model has; None where nothing was held out and they are the last ones.
        last: The last checkpoint, if it was measured.
        least_frames: The least number of frames of a held-out clip that can be continued; None where the data were
            tokens.
        continuations: The figures of the continued held-out clips, if one was long enough.
        prepared: The report of preparing the clips, if this call prepared them.
    """

    out: Path
    model: Path
    progress: RunProgress
    best: Checkpoint | None = None
    last: Checkpoint | None = None
    least_frames: int | None = None
    continuations: ContinuationFigures | None = None
    prepared: Report | None = None
