"""What a training tells while it runs: its figures, its speed, and a picture of its losses.

    report = TrainReport(folder, step=0)            # or of a run that goes on after this step
    report.count(step, seconds)
    report.add(20, {"loss": 3.2, "norm": 0.9})
    report.draw()

metrics.jsonl gets a line for each report at once, with figures that depend on the run alone: one that was resumed has
those of one that was not. speed.jsonl has what depends on the machine. Where tensorboard is installed, its folder gets
both.
"""

from pathlib import Path
from typing import Any

from ..core.errors import INSTALL
from ..core.files import atomic_path
from ..core.log import Entry, StepLog
from ..core.progress import note
from .speed import Speed


class TrainReport:
    """The files in the folder of a run that tell how it goes; the first of several processes writes them."""

    def __init__(self, folder: Path, step: int, speed: Speed | None = None, *, first: bool = True) -> None:
        """Open the files of a run that begins, or goes on after a step; what is told of later steps is dropped."""
        self._folder, self._speed, self._first = folder, speed, first
        if not first:
            return
        self._metrics, self._speeds = StepLog(folder / "metrics.jsonl"), StepLog(folder / "speed.jsonl")
        for log in (self._metrics, self._speeds):
            log.cut(step)
        self._board = open_board(folder / "tensorboard", step)

    def count(self, step: int, seconds: float) -> None:
        """Count a step, which took so long."""
        if self._speed is not None:
            self._speed.count(step, seconds)

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Write the figures of a step, and the speed since the last ones."""
        if not self._first:
            return
        self._metrics.add({"step": step, **{name: round(figure, 6) for name, figure in figures.items()}})
        speed = {} if self._speed is None else self._speed.figures()
        if speed:
            self._speeds.add({"step": step, **speed})
        if self._board is not None:
            for name, figure in (figures | speed).items():
                self._board.add_scalar(name, figure, step)

    def draw(self) -> None:
        """Write the picture of the losses so far, and all that TensorBoard was told."""
        if not self._first:
            return
        if self._board is not None:
            self._board.flush()
        draw_curve(self._metrics.entries, "loss", self._folder / "loss.png")


def open_board(folder: Path, step: int) -> Any:
    """Return a writer of TensorBoard that hides what was told of later steps; None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def draw_curve(entries: list[Entry], name: str, path: Path) -> None:
    """Draw a figure of entries over their steps as a PNG; without matplotlib, only print how to install it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        note(f"no {path.name}: {INSTALL.format('train')}")
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([entry["step"] for entry in entries], [entry[name] for entry in entries], linewidth=0.8)
    axes.set_xlabel("step")
    axes.set_ylabel(name.replace("_", " "))
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
