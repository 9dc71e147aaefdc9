"""The training loop of tokenizers and language models: exactly resumable, stopped cleanly by signals, with a loss plot.

    train(model, loss, TrainConfig(steps=1000), Path("runs/tokenizer"), resume=True)

`loss(model, step)` makes its batch from (seed, step) alone, so that a resumed run sees the same batches as an
uninterrupted one and no state of a loader has to be saved. The folder of a run holds recipe.json, state.safetensors
(weights, their average, optimizer, step), metrics.jsonl (one line per report, written at once) and loss.png. A second
module, such as a discriminator, can be trained in the same steps as `auxiliary`.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import nn

from ..core.checkpoint import load_tensors, read_json, save_json, save_tensors
from ..core.config import check_same, to_dict
from ..core.device import faster_in_bfloat16
from ..core.errors import INSTALL, CheckpointError, ReelmError, require
from ..core.files import atomic_path, check_writable
from ..core.log import Entry, StepLog
from ..core.plain_values import convert_fields
from ..core.progress import note, progress
from ..core.signals import stop_signals
from .step_guard import StepGuard

RECIPE, STATE = "recipe.json", "state.safetensors"
# The options that may differ when a run is resumed: its length, and how often it writes.
MAY_CHANGE = ("train.steps", "train.checkpoint_minutes", "train.report_steps")
# From the model and the step to the loss and the figures that are logged with it.
Loss = Callable[[nn.Module, int], tuple[torch.Tensor, dict[str, torch.Tensor]]]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The options of the training loop.

    Attributes:
        steps: The total number of optimizer steps; the cosine schedule ends there.
        learning_rate: The peak learning rate, reached after `warmup` steps; a cosine lowers it to a twentieth.
        warmup: The number of steps in which the learning rate rises linearly from 0. A warning says so where a training
            has no more steps than this.
        optimizer: "adamw", or "muon" for the matrices (torch.optim.Muon) and AdamW for all else.
        weight_decay: The decoupled weight decay, on matrices and kernels only.
        clip: The largest norm of a gradient.
        ema: The decay of the moving average of the weights, which is what is saved for use; 0 keeps no average.
        spike: How many times the mean norm of the gradients before it the norm of a gradient may be. A step of a larger
            one is left out, as is one that is not finite (step_guard.py).
        most_left_out: The number of steps in a row that may be left out; one more ends the run.
        precision: The precision of the products: "float32", "bfloat16" (weights and their updates stay in float32), or
            "auto", which is the faster one on the device where the run begins; a run that goes on keeps it.
        checkpoint_minutes: The minutes between two checkpoints.
        report_steps: The number of steps between two lines of metrics.
    """

    steps: int
    learning_rate: float = 1e-3
    optimizer: Literal["adamw", "muon"] = "adamw"
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.998
    spike: float = 50.0
    most_left_out: int = 10
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint_minutes: float = 5.0
    report_steps: int = 20

    def __post_init__(self) -> None:
        convert_fields(self)
        require(self.steps >= 1, "steps", "must be at least 1", self.steps)
        require(0 < self.learning_rate < 1, "learning_rate", "must be in (0, 1)", self.learning_rate)
        require(self.optimizer in ("adamw", "muon"), "optimizer", "must be 'adamw' or 'muon'", self.optimizer)
        known = self.precision in ("auto", "float32", "bfloat16")
        require(known, "precision", "must be 'auto', 'float32' or 'bfloat16'", self.precision)
        require(self.warmup >= 0, "warmup", "must be at least 0", self.warmup)
        decay, minutes = self.weight_decay, self.checkpoint_minutes
        require(0 <= decay < math.inf, "weight_decay", "must be finite and at least 0", decay)
        require(0 < self.clip < math.inf, "clip", "must be finite and above 0", self.clip)
        require(0 <= self.ema < 1, "ema", "must be in [0, 1)", self.ema)
        require(0 < minutes < math.inf, "checkpoint_minutes", "must be finite and above 0", minutes)
        require(1 < self.spike < math.inf, "spike", "must be finite and above 1", self.spike)
        require(self.most_left_out >= 0, "most_left_out", "must be at least 0", self.most_left_out)
        require(self.report_steps >= 1, "report_steps", "must be at least 1", self.report_steps)

    def rate(self, step: int) -> float:
        """Return the learning rate at `step` as a share of its peak: linear warm-up, then a cosine down to 0.05."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        elapsed = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(elapsed, 1.0)))


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Return AdamW for all parameters, or Muon for the matrices inside the blocks and AdamW for the rest."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # Muon is meant for hidden matrices; AdamW trains the embeddings and the head (Jordan et al. 2024).
    hidden = [p for name, p in parameters.items() if config.optimizer == "muon" and p.ndim == 2 and "blocks." in name]
    chosen = {id(p) for p in hidden}
    rest = [p for p in parameters.values() if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=config.learning_rate, betas=(0.9, 0.98), fused=True
    )
    if not hidden:
        return [adamw]
    # "match_rms_adamw" scales Muon's step to AdamW's, so that one learning rate serves both (arXiv 2502.16982).
    muon = torch.optim.Muon(
        hidden, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [adamw, muon]


class TrainState:
    """The weights, moving average, optimizers and step of a run, which one safetensors file holds.

    The auxiliary module has optimizers of its own, its gradient is clipped by itself, and it has no moving average.

    Attributes:
        precision: The precision of the products where the run decides it itself; empty before it has begun.
        stopped: Whether a signal has asked the run to end, so that nothing is to be done but to save it.
    """

    precision, stopped = "", False

    def __init__(self, model: nn.Module, config: TrainConfig, auxiliary: nn.Module | None = None) -> None:
        self.model, self.config, self.step = model, config, 0
        self.modules = {"model": model} if auxiliary is None else {"model": model, "auxiliary": auxiliary}
        self.optimizers = [each for module in self.modules.values() for each in make_optimizers(module, config)]
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.guard = StepGuard(config.spike, config.most_left_out)
        self._held: list[tuple[nn.Module, dict[str, torch.Tensor]]] = []

    def begin(self, device: torch.device) -> str:
        """Set the modules to be trained, and return the precision of the products, which a new run may decide."""
        for module in self.modules.values():
            module.train()
        if self.config.precision != "auto":
            return self.config.precision
        self.precision = self.precision or ("bfloat16" if faster_in_bfloat16(device) else "float32")
        return self.precision

    def hold(self) -> None:
        """Keep what computing a loss changes, such as a codebook, in case that the step is left out."""
        self._held = [
            (module, {name: buffer.clone() for name, buffer in module.named_buffers()})
            for module in self.modules.values()
        ]

    def advance(self, loss: torch.Tensor) -> torch.Tensor:
        """Make one optimizer step on `loss`, or leave it out; return the norm of the model's gradient before clipping.

        After a step that is left out, `guard.left_out` is above 0, and the model is as it was at `hold`.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate * self.config.rate(self.step)
        loss.backward()
        norms = [nn.utils.clip_grad_norm_(module.parameters(), self.config.clip) for module in self.modules.values()]
        self.step += 1
        if not self.guard.accepts(*map(float, norms)):
            for module, held in self._held:
                buffers = dict(module.named_buffers())  # a quantizer may have put others in their places
                for name, buffer in held.items():
                    buffers[name].copy_(buffer)
            return norms[0]
        for optimizer in self.optimizers:
            optimizer.step()
        # Early on the average follows the weights closely, so that it forgets their initial values.
        decay = min(self.config.ema, self.step / (9 + self.step)) if self.config.ema else 0.0
        weights = self.model.state_dict()
        names = list(self.average)
        torch._foreach_lerp_([self.average[n] for n in names], [weights[n] for n in names], 1 - decay)
        return norms[0]

    def average_model(self) -> dict[str, torch.Tensor]:
        """Return the averaged weights and the buffers under the names of the model's state dict, to save for use."""
        return {name: self.average.get(name, tensor) for name, tensor in self.model.state_dict().items()}

    def save(self, path: Path) -> None:
        """Write the whole state to a file atomically."""
        tensors = {f"{group}.{k}": v for group, module in self.modules.items() for k, v in module.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for index, optimizer in enumerate(self.optimizers):
            for number, values in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{index}.{number}.{k}": v for k, v in values.items()}
        counts = {"step": str(self.step), "steps": str(self.config.steps)}
        save_tensors(path, tensors, {**counts, "precision": self.precision, **self.guard.values()})

    def load(self, path: Path) -> None:
        """Read the state from a file that `save` wrote.

        Raises:
            CheckpointError: The file is damaged, or belongs to another model or optimizer.
        """
        tensors = load_tensors(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        step, self.precision = metadata.get("step", ""), metadata.get("precision", "")
        if not (step.isascii() and step.isdigit()):
            raise CheckpointError(f"resume: {path.name} must be a training state, got another safetensors file")
        self.step = int(step)
        self.guard.load(metadata)
        groups: dict[str, dict[str, torch.Tensor]] = {"model": {}, "auxiliary": {}, "average": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = tensor
        if groups["auxiliary"] and "auxiliary" not in self.modules:
            raise CheckpointError(f"resume: {path.name} must belong to this model: it has an auxiliary module, too")
        try:
            for group, module in self.modules.items():
                module.load_state_dict(groups[group])
        except RuntimeError as error:
            raise CheckpointError(f"resume: {path.name} must belong to this model: {error}") from error
        owned = {
            f"{index}.{number}"
            for index, optimizer in enumerate(self.optimizers)
            for number in range(sum(len(group["params"]) for group in optimizer.param_groups))
        }
        found = {name.rpartition(".")[0] for name in groups["optimizer"]}
        # A parameter that never had a gradient has no state, but no optimizer is without any.
        each = {name.partition(".")[0] for name in found} == {str(index) for index in range(len(self.optimizers))}
        none = not found and metadata.get("accepted_steps") == "0"  # all steps were left out
        if not (found <= owned and (each or none)):
            raise CheckpointError(f"resume: {path.name} must belong to this optimizer ({self.config.optimizer})")
        shapes = ({name: tensor.shape for name, tensor in group.items()} for group in (groups["average"], self.average))
        if len({frozenset(each.items()) for each in shapes}) > 1:
            raise CheckpointError(f"resume: {path.name} must belong to this model: its moving average does not fit")
        for name, tensor in self.average.items():
            tensor.copy_(groups["average"][name])
        for index, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, torch.Tensor]] = {}
            for name, tensor in groups["optimizer"].items():
                owner, number, key = name.split(".")
                if int(owner) == index:
                    state.setdefault(int(number), {})[key] = tensor
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def check_run(folder: Path, resume: bool, recipe: object = None) -> Path:
    """Check whether a run can start or resume in `folder`, and return the path of its state file.

    Args:
        folder: The folder of the run.
        resume: Whether the run in the folder is to be continued.
        recipe: The dataclass with all options of the run, whose field `train` is its TrainConfig.

    Raises:
        ReelmError: The folder holds a run and `resume` is False, or it holds none and `resume` is True; or the recipe
            differs from that of the run in more than its length and how often it writes.
    """
    path, record = folder / STATE, folder / RECIPE
    rule = "must hold a checkpoint of the run that goes on" if resume else "must be new, or its run must be resumed"
    require(path.exists() == resume, "folder", rule, str(folder))
    if resume and recipe is not None and record.exists():
        check_same(_plain(recipe), read_json(record), MAY_CHANGE)
    return path


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
    on_checkpoint: Callable[[TrainState], None] | None = None,
    batch_name: Callable[[int], str] = "batch {}".format,
    batch_option: tuple[str, int] = ("batch_size", 1),
) -> TrainState:
    """Train `model` on `loss` until `config.steps`, or until SIGINT or SIGTERM; both leave a checkpoint.

    Args:
        model: The module to train.
        loss: The function of the model and the step that returns the loss and the figures to log.
        config: The options of the loop.
        folder: The folder of the run; it is made if it does not exist.
        recipe: A dataclass with all options that the run depends on, written to recipe.json; see `check_run`.
        resume: Whether the run in the folder is continued.
        auxiliary: A second module that is trained in the same steps. The value of `loss` includes its loss; neither
            module's loss may have a gradient with respect to the other's weights.
        on_checkpoint: A function that is called after each checkpoint, e.g. to export the weights.
        batch_name: A function from a step to the name of its batch, for the note of a step that is left out.
        batch_option: The name and the value of the option by which a step takes less memory.

    Raises:
        ReelmError: The folder holds a run and `resume` is False, or it holds none and `resume` is True; or more steps
            in a row than `most_left_out` were left out, after a checkpoint without them; or memory is short.
    """
    path = check_run(folder, resume, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    check_writable(path, "out")
    state = TrainState(model, config, auxiliary)
    if resume:
        state.load(path)
    log = StepLog(folder / "metrics.jsonl")
    log.cut(state.step)
    _warn_of_warmup(config)
    if recipe is not None:
        save_json(folder / RECIPE, _plain(recipe))

    def checkpoint() -> None:
        state.save(path)
        draw_losses(log.entries, folder / "loss.png")
        if on_checkpoint is not None:
            on_checkpoint(state)

    if state.step >= config.steps and on_checkpoint is not None:
        on_checkpoint(state)  # a kill right after the last state was written may have prevented it
    device = next(model.parameters()).device
    half = state.begin(device) == "bfloat16"
    last = time.monotonic()
    with stop_signals() as stopped:
        for step in progress(range(state.step, config.steps), "training", unit="step", done=state.step):
            # What a model draws at random (the codes that a codebook replaces) must depend on the step alone, too.
            torch.manual_seed(step)
            state.hold()
            with _short_of_memory(batch_option):
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    value, metrics = loss(model, step)
                norm = state.advance(value)
            if state.guard.left_out:
                _note_left_out(state, float(norm), batch_name(step))
            elif state.step % config.report_steps == 0 or state.step == config.steps:
                figures = {"loss": value.detach(), "norm": norm, **metrics}
                log.add({"step": state.step, **{name: round(float(figure), 5) for name, figure in figures.items()}})
            state.stopped = bool(stopped)
            late = time.monotonic() - last > 60 * config.checkpoint_minutes
            if stopped or late or state.guard.gives_up or state.step == config.steps:
                checkpoint()
                last = time.monotonic()
            state.guard.check(float(value.detach()))
            if stopped:
                note(f"stopped at step {state.step} of {config.steps}; go on with --resume")
                break
    return state


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


def draw_losses(log: list[Entry], path: Path) -> None:
    """Write the loss curve as a PNG; without matplotlib, only print how to install it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        note(f"no loss.png: {INSTALL.format('train')}")
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([entry["step"] for entry in log], [entry["loss"] for entry in log], linewidth=0.8)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
