"""The training loop of tokenizers and language models: exactly resumable, stopped cleanly by signals, with a loss plot.

    train(model, loss, TrainConfig(steps=1000), Path("runs/tokenizer"), resume=True)

`loss(model, step, share)` makes its part of a batch from (seed, step) alone, so that a resumed run sees the same
batches as an uninterrupted one and no state of a loader has to be saved. The folder of a run holds recipe.json, its
last states (state_folders.py) and what train_report.py writes. A second module, such as a discriminator, can be trained
in the same steps as `auxiliary`. Several processes (ranks.py) train on the same batches; the first one reports.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.checkpoint import read_json, save_json
from ..core.config import check_same, to_dict
from ..core.errors import ReelmError, require
from ..core.files import check_writable
from ..core.progress import note, progress
from ..core.signals import stop_signals
from .ranks import ONE_RANK, Ranks, Share
from .speed import Speed, Work
from .state_folders import SavedState, StateFolders, newest_state
from .train_config import TrainConfig
from .train_report import TrainReport
from .train_state import TrainState

RECIPE = "recipe.json"
EXPORTED = "exported"  # an empty file in the folder of a state of which everything has been made
# The options that may differ when a run is resumed: its length, how often it writes, and who computes what.
MAY_CHANGE = tuple(f"train.{name}" for name in ("steps", "checkpoint_minutes", "report_steps", "parts", "shards",
                                                "tensor", "recompute", "compile", "keep"))  # fmt: skip
# From a state that has been saved, and whether a signal has stopped the run, to what is made of the state.
Export = Callable[[SavedState, bool], None]
# From the model, the step and the part of its batch to the mean loss of that part, and the figures logged with it.
Loss = Callable[[nn.Module, int, Share], tuple[torch.Tensor, dict[str, torch.Tensor]]]


def check_run(folder: Path, resume: bool, recipe: object = None) -> SavedState | None:
    """Check whether a run can start or resume in `folder`, and return its last state, if it has one.

    Args:
        folder: The folder of the run.
        resume: Whether the run in the folder is to be continued.
        recipe: The dataclass with all options of the run, whose field `train` is its TrainConfig.

    Raises:
        ReelmError: The folder holds a run and `resume` is False, or it holds none and `resume` is True; or the recipe
            differs from that of the run in more than `MAY_CHANGE`.
    """
    saved, record = newest_state(folder), folder / RECIPE
    rule = "must hold a checkpoint of the run that goes on" if resume else "must be new, or its run must be resumed"
    require((saved is not None) == resume, "folder", rule, str(folder))
    if resume and recipe is not None and record.exists():
        check_same(_plain(recipe), read_json(record), MAY_CHANGE)
    return saved


def _plain(recipe: Any) -> dict[str, Any]:
    """Return the values of a recipe as they come back from JSON: lists for tuples, strings for paths."""
    plain: dict[str, Any] = json.loads(json.dumps(to_dict(recipe), default=str))
    return plain


def train(
    model: nn.Module,
    loss: Loss,
    config: TrainConfig,
    folder: Path,
    *,
    recipe: object = None,
    resume: bool = False,
    auxiliary: nn.Module | None = None,
    on_checkpoint: Export | None = None,
    batch_name: Callable[[int], str] = "batch {}".format,
    batch_option: tuple[str, int] = ("batch_size", 1),
    work: Work | None = None,
    ranks: Ranks = ONE_RANK,
) -> TrainState:
    """Train `model` on `loss` until `config.steps`, or until SIGINT or SIGTERM; both leave a checkpoint.

    Args:
        model: The module to train.
        loss: The function of the model, the step and the part of its batch that returns the mean loss of the part and
            the figures to log.
        config: The options of the loop.
        folder: The folder of the run; it is made if it does not exist.
        recipe: A dataclass with all options that the run depends on, written to recipe.json; see `check_run`.
        resume: Whether the run in the folder is continued.
        auxiliary: A second module that is trained in the same steps. The value of `loss` includes its loss; neither
            module's loss may have a gradient with respect to the other's weights.
        on_checkpoint: A function that the first process calls after each checkpoint, e.g. to export the weights.
        batch_name: A function from a step to the name of its batch, for the note of a step that is left out.
        batch_option: The name and the value of the option by which a step takes less memory.
        work: What the steps process, for speed.jsonl.
        ranks: The processes of the training.

    Raises:
        ReelmError: The folder holds a run and `resume` is False, or it holds none and `resume` is True; or more steps
            in a row than `most_left_out` were left out, after a checkpoint without them; or memory is short.
    """
    saved = check_run(folder, resume, recipe)
    state, folders = TrainState(model, config, auxiliary, ranks), StateFolders(folder, ranks, config.keep)
    report = _begin(state, folders, saved, folder, recipe, work)

    def export(saved: SavedState) -> None:
        report.draw()
        if ranks.first:
            if on_checkpoint is not None:
                on_checkpoint(saved, state.stopped)
                (saved.folder / EXPORTED).touch()
            folders.forget()
        ranks.wait()  # here, for as long as the first process measures: groups of weights wait for half an hour only

    if saved is not None and not (saved.folder / EXPORTED).is_file():
        export(saved)  # a kill right after the state was written has prevented it, or came in its midst
    half = state.begin(device_of(model)) == "bfloat16"
    last = time.monotonic()
    with stop_signals() as stopped, folders:
        for step in progress(range(state.step, config.steps), "training", unit="step", done=state.step):
            begun = time.monotonic()
            with _short_of_memory(batch_option):
                figures = _make_step(state, loss, half=half)
            report.count(step, time.monotonic() - begun)
            if state.guard.left_out:
                _note_left_out(state, figures["norm"], batch_name(step))
            elif state.step % config.report_steps == 0 or state.step == config.steps:
                report.add(state.step, _means(ranks, figures))
            late = time.monotonic() - last > 60 * config.checkpoint_minutes
            state.stopped, late, written = ranks.any_of(bool(stopped), late, folders.written)
            ends = state.stopped or state.guard.gives_up or state.step == config.steps
            whole = [folders.finish()] if folders.writing and (written or late or ends) else []
            if late or ends:
                folders.begin(state.tensors(), state.values())
                last = time.monotonic()
            if ends:  # before anything is made of the one before: who stops a run may not wait for long
                whole.append(folders.finish())
            for each in whole:
                export(each)
            state.guard.check(figures["loss"])
            if state.stopped:
                note(f"stopped at step {state.step} of {config.steps}; go on with --resume")
                break
    return state


def _begin(
    state: TrainState, folders: StateFolders, saved: SavedState | None, folder: Path, recipe: object, work: Work | None
) -> TrainReport:
    """Let a state be the last one of the run in the folder, where it goes on, and return the report."""
    if saved is not None:
        state.load(saved, folders.group)
    state.ranks.wait()  # until all have read what the first one may write now
    _warn_of_warmup(state.config)
    if state.ranks.first:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder / RECIPE, "out")
        if recipe is not None:
            save_json(folder / RECIPE, _plain(recipe))
    speed = None if work is None else Speed(work, device_of(state.model), state.ranks.count)
    return TrainReport(folder, state.step, speed, first=state.ranks.first)


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the weights of a module."""
    return next(module.parameters()).device


def _make_step(state: TrainState, loss: Loss, *, half: bool) -> dict[str, float]:
    """Make a step; return the mean loss of this process's parts, the norm, and the means of the figures."""
    # What a model draws at random (the codes that a codebook replaces) must depend on the step alone, too.
    torch.manual_seed(state.step)
    state.begin_step()
    shares, sums = state.ranks.shares(state.config.parts), dict[str, float]()
    device = device_of(state.model)
    for share in shares:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            value, metrics = loss(state.model, state.step, share)
        state.backward(value, last=share is shares[-1])
        for name, figure in {"loss": value.detach(), **metrics}.items():
            sums[name] = sums.get(name, 0.0) + float(figure) / len(shares)
    return {"loss": sums.pop("loss"), "norm": float(state.advance()), **sums}


def _means(ranks: Ranks, figures: dict[str, float]) -> dict[str, float]:
    """Return the means of figures over the processes."""
    return dict(zip(figures, ranks.mean([*figures.values()]), strict=True))


@contextlib.contextmanager
def _short_of_memory(option: tuple[str, int]) -> Iterator[None]:
    """Say which option is to be smaller where a device has no memory left."""
    try:
        yield
    except RuntimeError as error:  # torch's allocator of CPUs raises no class of its own
        short = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not short:
            raise
        (name, value), reason = option, str(error).partition("\n")[0]
        raise ReelmError(f"{name}: must be smaller for the memory of this machine, got {value} ({reason})") from error


def _note_left_out(state: TrainState, norm: float, batch: str) -> None:
    mean = f"{state.guard.mean:.3g} is the mean of those before"
    note(f"warning: step {state.step} is left out: its gradient has the norm {norm:.3g}, {mean}; it has {batch}")


def _warn_of_warmup(config: TrainConfig) -> None:
    if config.steps <= config.warmup:
        peak = config.learning_rate * config.rate(config.steps - 1)
        note(
            f"warning: train.warmup: the learning rate rises for {config.warmup} steps and falls after them, but the "
            f"training ends after {config.steps}: it reaches {peak:.3g} of {config.learning_rate:.3g} and never falls"
        )
