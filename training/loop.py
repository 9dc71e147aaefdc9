"""The training loop that tokenizer and language model share: resumable to the bit, stopped cleanly, drawn as it goes.

    train(model, loss, TrainConfig(steps=1000), Path("runs/tokenizer"), resume=True)

`loss(model, step)` makes its batch from (seed, step) alone, so a resumed run sees what an uninterrupted one would have
seen: no loader state exists. A run folder holds recipe.json, state.safetensors (weights, their average, optimizer,
step), metrics.jsonl (a line a report, at once) and loss.png. A second module can be trained `beside` the model, as a
discriminator is.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import nn

from ..core.checkpoint import load_tensors, read_json, save_json, save_tensors
from ..core.config import check_same, to_dict
from ..core.errors import CheckpointError, require
from ..core.files import atomic_path, check_writable
from ..core.log import StepLog
from ..core.progress import note, progress

RECIPE = "recipe.json"
# What a run may change when it goes on: how far, and what it writes when.
MAY_CHANGE = ("train.steps", "train.checkpoint_minutes", "train.report_steps")
Loss = Callable[[nn.Module, int], tuple[torch.Tensor, dict[str, torch.Tensor]]]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and how fast to train.

    Attributes:
        steps: optimizer steps in all; the cosine ends there.
        learning_rate: its peak, after `warmup` steps; it falls to a twentieth by a cosine.
        warmup: steps in which the learning rate rises from nothing.
        optimizer: "adamw", or "muon" for the matrices (torch.optim.Muon) and AdamW for all else.
        weight_decay: decoupled; on matrices and kernels alone.
        clip: the largest norm of a gradient.
        ema: decay of the moving average of the weights, which is what is saved for use; 0 keeps none.
        precision: of the products: "float32", "bfloat16" (weights and their updates stay in float32), or "auto", which
            is bfloat16 on a GPU alone. A CPU with AVX512-BF16 or AMX gains from bfloat16; others lose a hundredfold.
        checkpoint_minutes: how often the state is written.
        report_steps: how often a line of metrics is written.
    """

    steps: int
    learning_rate: float = 1e-3
    optimizer: Literal["adamw", "muon"] = "adamw"
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.998
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint_minutes: float = 5.0
    report_steps: int = 20

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", "must be at least 1", self.steps)
        require(0 < self.learning_rate < 1, "learning_rate", "must be in (0, 1)", self.learning_rate)
        require(self.optimizer in ("adamw", "muon"), "optimizer", "must be 'adamw' or 'muon'", self.optimizer)
        known = self.precision in ("auto", "float32", "bfloat16")
        require(known, "precision", "must be 'auto', 'float32' or 'bfloat16'", self.precision)
        require(self.warmup >= 0, "warmup", "must be at least 0", self.warmup)
        require(self.weight_decay >= 0, "weight_decay", "must be at least 0", self.weight_decay)
        require(self.clip > 0, "clip", "must be above 0", self.clip)
        require(0 <= self.ema < 1, "ema", "must be in [0, 1)", self.ema)
        require(self.checkpoint_minutes > 0, "checkpoint_minutes", "must be above 0", self.checkpoint_minutes)
        require(self.report_steps >= 1, "report_steps", "must be at least 1", self.report_steps)

    def rate(self, step: int) -> float:
        """The learning rate's share of its peak at `step`: linear warm-up, then a cosine down to 0.05."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        part = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters, or Muon for the matrices inside the blocks and AdamW for the rest."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # Muon is for hidden matrices: embeddings and the head belong to AdamW (Jordan et al. 2024).
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
    """Weights, moving average, optimizers and step of a run, to and from one safetensors file.

    What is trained `beside` the model has optimizers and a clipped gradient of its own, and no moving average.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, beside: nn.Module | None = None) -> None:
        self.model, self.config, self.step = model, config, 0
        self.modules = {"model": model} if beside is None else {"model": model, "beside": beside}
        self.optimizers = [made for module in self.modules.values() for made in make_optimizers(module, config)]
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()}

    def advance(self, loss: torch.Tensor) -> torch.Tensor:
        """One optimizer step on `loss`; returns the norm of the model's gradient before clipping."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate * self.config.rate(self.step)
        loss.backward()
        norms = [nn.utils.clip_grad_norm_(module.parameters(), self.config.clip) for module in self.modules.values()]
        finite = all(bool(norm.isfinite()) for norm in norms)
        require(finite, "loss", f"must have a finite gradient at step {self.step}", float(loss.detach()))
        for optimizer in self.optimizers:
            optimizer.step()
        # The average forgets its start: early on it follows closely.
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step)) if self.config.ema else 0.0
        now = self.model.state_dict()
        names = list(self.average)
        torch._foreach_lerp_([self.average[n] for n in names], [now[n] for n in names], 1 - decay)
        self.step += 1
        return norms[0]

    def average_model(self) -> dict[str, torch.Tensor]:
        """The averaged weights under the model's names: what is kept for use."""
        return {name: self.average.get(name, tensor) for name, tensor in self.model.state_dict().items()}

    def save(self, path: Path) -> None:
        """Write everything atomically."""
        tensors = {f"{kind}.{k}": v for kind, module in self.modules.items() for k, v in module.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for index, optimizer in enumerate(self.optimizers):
            for number, values in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{index}.{number}.{k}": v for k, v in values.items()}
        save_tensors(path, tensors, {"step": str(self.step), "steps": str(self.config.steps)})

    def load(self, path: Path) -> None:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is damaged, or belongs to another model or optimizer.
        """
        tensors = load_tensors(path)
        with safe_open(path, framework="pt") as file:
            self.step = int((file.metadata() or {}).get("step", "-1"))
        if self.step < 0:
            raise CheckpointError(f"resume: {path.name} must be a training state, got another safetensors file")
        groups: dict[str, dict[str, torch.Tensor]] = {"model": {}, "beside": {}, "average": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            groups.setdefault(kind, {})[rest] = tensor
        if groups["beside"] and "beside" not in self.modules:
            raise CheckpointError(f"resume: {path.name} must belong to this model: more was trained beside it")
        try:
            for kind, module in self.modules.items():
                module.load_state_dict(groups[kind])
        except RuntimeError as error:
            raise CheckpointError(f"resume: {path.name} must belong to this model: {error}") from error
        owned = {
            f"{index}.{number}"
            for index, optimizer in enumerate(self.optimizers)
            for number in range(sum(len(group["params"]) for group in optimizer.param_groups))
        }
        found = {name.rpartition(".")[0] for name in groups["optimizer"]}
        if not found <= owned or set(groups["average"]) != set(self.average):
            raise CheckpointError(f"resume: {path.name} must belong to this optimizer ({self.config.optimizer})")
        for name, tensor in self.average.items():
            tensor.copy_(groups["average"][name])
        for index, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, torch.Tensor]] = {}
            for name, tensor in groups["optimizer"].items():
                owner, number, key = name.split(".")
                if int(owner) == index:
                    state.setdefault(int(number), {})[key] = tensor
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """While inside, SIGINT and SIGTERM only fill the yielded list; a second one interrupts at once."""
    caught: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def check_run(folder: Path, resume: bool, recipe: Any = None) -> Path:
    """The state file of the run in `folder`, before any work is done.

    Args:
        recipe: the dataclass of all options of the run, whose TrainConfig is `train`.

    Raises:
        ReelmError: the folder holds a run and `resume` is False, or none and it is True; or the recipe is not that of
            the run, in more than its length and how often it writes.
    """
    path, told = folder / "state.safetensors", folder / RECIPE
    require(path.exists() == resume, "resume", "must be given exactly when the folder holds a run", resume)
    if resume and recipe is not None and told.exists():
        check_same(_plain(recipe), read_json(told), MAY_CHANGE)
    return path


def _plain(recipe: Any) -> dict[str, Any]:
    """A recipe as JSON keeps it."""
    plain: dict[str, Any] = json.loads(json.dumps(to_dict(recipe), default=str))
    return plain


def train(
    model: nn.Module,
    loss: Loss,
    config: TrainConfig,
    folder: Path,
    *,
    recipe: Any = None,
    resume: bool = False,
    beside: nn.Module | None = None,
    on_checkpoint: Callable[[TrainState], None] | None = None,
) -> TrainState:
    """Train `model` on `loss` until `config.steps`, or until SIGINT or SIGTERM, leaving a checkpoint either way.

    Args:
        folder: the run's folder; made if need be. A folder with a run in it is refused unless `resume`.
        recipe: a dataclass of all that the run depends on, for recipe.json; see `check_run`.
        beside: trained in the same steps: what `loss` returns holds its loss too, and no gradient of the one's loss
            reaches the other's weights.
        on_checkpoint: called after each checkpoint (samples, exports).

    Raises:
        ReelmError: the folder holds a run and `resume` is False, or none and it is True.
    """
    path = check_run(folder, resume, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    check_writable(path, "out")
    state = TrainState(model, config, beside)
    if resume:
        state.load(path)
    log = StepLog(folder / "metrics.jsonl")
    log.cut(state.step)
    if recipe is not None:
        save_json(folder / RECIPE, _plain(recipe))

    def checkpoint() -> None:
        state.save(path)
        draw_losses(log.entries, folder / "loss.png")
        if on_checkpoint is not None:
            on_checkpoint(state)

    if state.step >= config.steps and on_checkpoint is not None:
        on_checkpoint(state)  # which a kill after the last state may have left out
    device = next(model.parameters()).device
    half = config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")
    for module in state.modules.values():
        module.train()
    last = time.monotonic()
    with stop_signals() as stopped:
        for step in progress(range(state.step, config.steps), "training", unit="step"):
            # What a model draws at random (the codes that a codebook replaces) follows from the step too.
            torch.manual_seed(step)
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                value, metrics = loss(model, step)
            norm = state.advance(value)
            if state.step % config.report_steps == 0 or state.step == config.steps:
                figures = {"loss": value.detach(), "norm": norm, **metrics}
                log.add({"step": state.step, **{name: round(float(figure), 5) for name, figure in figures.items()}})
            if stopped or state.step == config.steps or time.monotonic() - last > 60 * config.checkpoint_minutes:
                checkpoint()
                last = time.monotonic()
            if stopped:
                note(f"stopped at step {state.step} of {config.steps}; go on with --resume")
                break
    return state


def draw_losses(log: list[dict[str, Any]], path: Path) -> None:
    """The loss curve as a PNG (needs matplotlib; without it, one line says how to get it)."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        note("no loss.png: pip install 'reelm[train]'")
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([entry["step"] for entry in log], [entry["loss"] for entry in log], linewidth=0.8)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
