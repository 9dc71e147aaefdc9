"""The measures of a run's checkpoints on held-out data, of which the best is kept; that of language models.

    held_out = HeldOut(read_shards(folder), text, run_folder, cross_entropy, batch_tokens=5120, step=0)
    held_out.judge(model, step)         # at every checkpoint: held-out.jsonl and .png, perhaps best.safetensors
    load_weights(model, held_out.best)

A small set of clips is soon overfitted: the training loss still falls while the loss on other clips rises.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from ..core.checkpoint import save_tensors
from ..core.config import from_dict
from ..core.log import StepLog, read_log
from ..data.token_shards import Shards
from ..lm.text import TextEncoder
from ..lm.transformer import VideoTransformer
from .run_reports import Checkpoint
from .train_report import draw_curve

LOG_FILE, BEST, PLOT, NATS = "held-out.jsonl", "best.safetensors", "held-out.png", "nats_per_token"


class Nats(Protocol):
    """A loss of a model on whole clips."""

    def __call__(
        self, model: VideoTransformer, tokens_Bthw: torch.Tensor, text_BP: torch.Tensor, lengths_B: torch.Tensor,
        controls: Mapping[str, torch.Tensor] | None = None, /, *, seen_Bthw: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Return the mean loss in nats a video token; `TokenBatch` has the arguments.

        `seen_Bthw` are the tokens that the model sees, where they are not those of the clips.
        """


def read_entries(run: Path) -> list[Checkpoint]:
    """Read the measured checkpoints of a run, in the order of their steps."""
    return [from_dict(Checkpoint, entry, LOG_FILE) for entry in read_log(run / LOG_FILE)]


def best_of(checkpoints: list[Checkpoint]) -> Checkpoint:
    """Return the checkpoint with the lowest loss on the held-out tokens; the first of equal ones."""
    return min(checkpoints, key=lambda checkpoint: checkpoint.nats_per_token)


class BestCheckpoint:
    """The log of a figure of a run's checkpoints on held-out data (held-out.jsonl and .png), and which is the best."""

    def __init__(self, folder: Path, figure: str, *, higher: bool, step: int) -> None:
        """Open the log of a run that begins, or goes on after a step: later checkpoints are none any more.

        Args:
            folder: The folder of the run.
            figure: The name of the figure.
            higher: Whether a higher figure is better.
            step: The step after which the run goes on; 0 for its beginning.
        """
        self._log, self._figure, self._sign = StepLog(folder / LOG_FILE), figure, 1 if higher else -1
        self._plot = folder / PLOT
        entries = self._log.entries
        later = [entry for entry in entries if entry["step"] > step]
        best = max(entries, key=self._goodness, default=None)
        # Where the run went back to before its best checkpoint, the best one before that has no weights any more.
        self._log.cut(0 if best in later else step)

    def _goodness(self, entry: Mapping[str, float]) -> float:
        return self._sign * entry[self._figure]

    def is_beaten(self, step: int, figure: float) -> bool:
        """Return whether a checkpoint with this figure is better than all before its step."""
        self._log.cut(step - 1)  # a run that was killed after this step measures it again
        return all(self._sign * figure > self._goodness(entry) for entry in self._log.entries)

    def add(self, step: int, figure: float) -> None:
        """Write down the figure of a checkpoint; its weights must be kept before, if it is the best."""
        self._log.add({"step": step, self._figure: figure})
        draw_curve(self._log.entries, self._figure, self._plot)


class HeldOut:
    """The held-out tokens of a run, and the checkpoints that were measured on them.

    Attributes:
        best: The file with the weights of the best checkpoint so far.
    """

    def __init__(
        self, sets: list[Shards], text: TextEncoder, folder: Path, nats: Nats, *, batch_tokens: int, step: int
    ) -> None:
        """Open the files of a run that begins, or goes on after a step: later checkpoints are none any more."""
        self._sets, self._text, self._nats, self._batch_tokens = sets, text, nats, batch_tokens
        self.best, self._checkpoints = folder / BEST, BestCheckpoint(folder, NATS, higher=False, step=step)

    def judge(self, model: VideoTransformer, step: int) -> None:
        """Measure a checkpoint, and save its weights if it is better than all before."""
        measured = model if model.guided is None else model.guided
        nats = round(nats_per_token(measured, self._sets, self._text, self._nats, self._batch_tokens), 5)
        if self._checkpoints.is_beaten(step, nats):
            save_tensors(self.best, model.state_dict())
        self._checkpoints.add(step, nats)


@torch.no_grad()
def nats_per_token(
    model: VideoTransformer, sets: list[Shards], text: TextEncoder, nats_of: Nats, batch_tokens: int
) -> float:
    """Return the mean nats a token of the clips, under the first caption of each clip."""
    device, nats, tokens = next(model.parameters()).device, 0.0, 0
    for shards in sets:
        size = max(1, batch_tokens // shards.tokens_Bthw[0].numel())
        for first in range(0, len(shards.captions), size):
            tokens_Bthw = shards.tokens_Bthw[first : first + size].long().to(device)
            prompts = [captions[0] for captions in shards.captions[first : first + size]]
            text_BP, lengths_B = (part.to(device) for part in text.prefix(prompts, model.config.prefix, "captions"))
            controls = {name: part[first : first + size].long().to(device) for name, part in shards.controls.items()}
            nats += float(nats_of(model, tokens_Bthw, text_BP, lengths_B, controls)) * tokens_Bthw.numel()
            tokens += tokens_Bthw.numel()
    return nats / tokens
