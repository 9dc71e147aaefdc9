"""The state of a training: weights, moving average, optimizers and step, in one safetensors file.

    state = TrainState(model, config)
    state.begin_step()
    state.backward(loss(model, step, share))
    norm = state.advance()
    state.save(path)                        # of any number of processes: any other number goes on with it

With several processes (ranks.py) each may have a part of every tensor. The file has whole tensors.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..core.checkpoint import load_tensors, save_tensors
from ..core.device import faster_in_bfloat16
from ..core.errors import CheckpointError, require
from ..lm.blocks import Block
from ..tokenizer.network import ResidualBlock
from .divided_tensors import part_of, whole
from .ranks import ONE_RANK, Ranks
from .step_guard import StepGuard
from .tensor_parallel import Division, clip_gradients
from .train_config import TrainConfig

DIGITS = "[0-9]" * 8


def make_optimizers(model: nn.Module, config: TrainConfig, *, one_by_one: bool = False) -> list[torch.optim.Optimizer]:
    """Return AdamW for all parameters, or Muon for the matrices inside the blocks and AdamW for the rest.

    Args:
        model: The model.
        config: The options of the training.
        one_by_one: Whether AdamW takes one parameter after the other, as where they are divided in several ways.
    """
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
        [g for g in groups if g["params"]], lr=config.learning_rate, betas=(0.9, 0.98), fused=not one_by_one,
        foreach=False if one_by_one else None,
    )  # fmt: skip
    if not hidden:
        return [adamw]
    # "match_rms_adamw" scales Muon's step to AdamW's, so that one learning rate serves both (arXiv 2502.16982).
    muon = torch.optim.Muon(
        hidden, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [adamw, muon]


def recompute(layer: nn.Module) -> None:
    """Compute a layer again in the backward pass, in place of keeping its activations; nothing in it may be random."""
    inner = layer.forward

    def forward(*inputs: object) -> object:  # which torch.compile sees through, unlike a `functools.partial`
        return checkpoint(inner, *inputs, use_reentrant=False, preserve_rng_state=False)

    setattr(layer, "forward", forward)  # noqa: B010 - type checkers know it as a method


class TrainState:
    """The weights, moving average, optimizers and step of a run, which one safetensors file holds.

    The auxiliary module has optimizers of its own, its gradient is clipped by itself, and it has no moving average.
    Where there are several processes, all must call each method in the same order.

    Attributes:
        precision: The precision of the products where the run decides it itself; empty before it has begun.
        stopped: Whether a signal has asked the run to end, so that nothing is to be done but to save it.
    """

    precision, stopped = "", False

    def __init__(
        self, model: nn.Module, config: TrainConfig, auxiliary: nn.Module | None = None, ranks: Ranks = ONE_RANK
    ) -> None:
        config.check_compiler(next(model.parameters()).device)
        require(ranks.tensor == config.tensor, "tensor", f"must be {ranks.tensor} for this training", config.tensor)
        self.model, self.config, self.step, self.ranks = model, config, 0, ranks
        self._division = Division()  # of the model; an auxiliary module is of a tokenizer, whose layers are whole
        self.modules = {"model": model} if auxiliary is None else {"model": model, "auxiliary": auxiliary}
        for module in self.modules.values():
            layers = [each for each in module.modules() if isinstance(each, Block | ResidualBlock)]
            for layer in layers:
                if config.recompute:
                    recompute(layer)
                if config.compile:
                    layer.compile()
            division = ranks.divide(module, layers, config.shards)
            self._division = division if module is model else self._division
        self.optimizers = [
            each for module in self.modules.values()
            for each in make_optimizers(module, config, one_by_one=ranks.tensor > 1)
        ]  # fmt: skip
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.guard = StepGuard(config.spike, config.most_left_out)
        self._held: list[tuple[nn.Module, dict[str, torch.Tensor]]] = []
        self._has_gradients = False  # of this step

    def begin(self, device: torch.device) -> str:
        """Set the modules to be trained, and return the precision of the products, which a new run may decide."""
        for module in self.modules.values():
            module.train()
        if self.config.precision != "auto":
            return self.config.precision
        if not self.precision:
            (half,) = self.ranks.any_of(faster_in_bfloat16(device))
            self.precision = "bfloat16" if half else "float32"
        return self.precision

    def begin_step(self) -> None:
        """Keep what computing a loss changes, such as a codebook: the step may be left out."""
        self._has_gradients = False
        self._held = [
            (module, {name: buffer.clone() for name, buffer in module.named_buffers()})
            for module in self.modules.values()
        ]

    def backward(self, loss: torch.Tensor, *, last: bool = True) -> None:
        """Add the gradient of the loss of a part of the batch; the processes share theirs after the last part."""
        for module in self.modules.values():
            if self.ranks.groups > 1:
                module.set_requires_gradient_sync(last)  # type: ignore[operator]
        if not self._has_gradients:
            # Those of the last step are let go of here, so that their memory is used again at once.
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            self._has_gradients = True
        (loss / self.config.parts).backward()

    def advance(self) -> torch.Tensor:
        """Make one optimizer step, or leave it out; return the norm of the model's gradient before clipping.

        After a step that is left out, `guard.left_out` is above 0, and the model is as it was at `begin_step`.
        """
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate * self.config.rate(self.step)
        norms = [self._clip(module) for module in self.modules.values()]
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
        for some in [[name] for name in names] if self.ranks.tensor > 1 else [names]:
            torch._foreach_lerp_([self.average[n] for n in some], [weights[n] for n in some], 1 - decay)
        return norms[0]

    def _clip(self, module: nn.Module) -> torch.Tensor:
        """Scale the gradient of a module down where it is long, and return its norm before."""
        if self.ranks.tensor == 1:
            return whole(nn.utils.clip_grad_norm_(module.parameters(), self.config.clip))
        self._division.add_gradients(module)
        return clip_gradients(module.parameters(), self.config.clip)

    def average_model(self) -> dict[str, torch.Tensor]:
        """Return the averaged weights and the buffers under the names of the model's state dict, to save for use.

        With several processes the first one gets them, in the memory of its machine, and the others get none.
        """
        orders = self._division.orders
        return self._gathered(
            (name, self.average.get(name, tensor), orders.get(name)) for name, tensor in self.model.state_dict().items()
        )

    def save(self, path: Path) -> None:
        """Write the whole state to a file atomically, and keep some of those before it; see `TrainConfig.keep`."""
        tensors = self._gathered(self._tensors())
        if self.ranks.first:
            self._keep_last(path)
            counts = {"step": str(self.step), "steps": str(self.config.steps)}
            save_tensors(path, tensors, {**counts, "precision": self.precision, **self.guard.values()})
            self._forget_others(path)

    def _keep_last(self, path: Path) -> None:
        """Give the file that is to be replaced a second name."""
        if self.config.keep > 1 and path.exists():
            with safe_open(path, framework="pt") as file:
                step = int((file.metadata() or {}).get("step", 0))
            name = path.with_stem(f"{path.stem}-{step:08d}")
            name.unlink(missing_ok=True)
            try:
                os.link(path, name)
            except OSError:  # some disks have no links
                shutil.copy2(path, name)

    def _forget_others(self, path: Path) -> None:
        """Delete the files with such names that were written before the last ones."""
        others = path.parent.glob(f"{path.stem}-{DIGITS}{path.suffix}")
        newest = sorted(others, key=lambda other: other.stat().st_mtime_ns, reverse=True)
        for other in newest[self.config.keep - 1 :]:
            other.unlink()

    def _gathered(self, tensors: Iterable[tuple[str, torch.Tensor, torch.Tensor | None]]) -> dict[str, torch.Tensor]:
        """Return whole tensors by their names, whose rows have this order, if any; the first process gets them."""
        if self.ranks.count == 1:
            return {name: tensor for name, tensor, _ in tensors}
        gathered = ((name, whole(tensor), order) for name, tensor, order in tensors)
        if self.ranks.first:
            return {
                name: tensor.cpu() if order is None else tensor.cpu()[order.argsort()]
                for name, tensor, order in gathered
            }
        for _ in gathered:  # all have to take part
            pass
        return {}

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor | None]]:
        orders = self._division.orders
        for group, module in self.modules.items():
            own = orders if module is self.model else {}
            yield from ((f"{group}.{name}", tensor, own.get(name)) for name, tensor in module.state_dict().items())
        yield from ((f"average.{name}", tensor, orders.get(name)) for name, tensor in self.average.items())
        for index, optimizer in enumerate(self.optimizers):
            owners = self._parameters(optimizer)
            for number, values in optimizer.state_dict()["state"].items():
                for name, tensor in values.items():
                    own_order = owners[number][1] if tensor.shape == owners[number][0].shape else None
                    yield f"optimizer.{index}.{number}.{name}", tensor, own_order

    def _parameters(self, optimizer: torch.optim.Optimizer) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Return the parameters of an optimizer by their numbers in it, with the orders of their rows."""
        orders = {id(p): self._division.orders.get(name) for name, p in self.model.named_parameters()}
        return [(p, orders.get(id(p))) for group in optimizer.param_groups for p in group["params"]]

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
        orders = self._division.orders
        try:
            for group, module in self.modules.items():
                own, rows = module.state_dict(), orders if module is self.model else {}
                module.load_state_dict({k: _part(v, own.get(k, v), rows.get(k)) for k, v in groups[group].items()})
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
            tensor.copy_(_part(groups["average"][name], tensor, orders.get(name)))
        for index, optimizer in enumerate(self.optimizers):
            parameters = self._parameters(optimizer)
            state: dict[int, dict[str, torch.Tensor]] = {}
            for name, tensor in groups["optimizer"].items():
                owner, number, key = name.split(".")
                if int(owner) == index:
                    like, order = parameters[int(number)]
                    part = _part(tensor, like, order) if tensor.shape == like.shape else tensor
                    state.setdefault(int(number), {})[key] = part
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _part(tensor: torch.Tensor, like: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    """Return this process's part of a whole tensor, whose rows get an order first."""
    return part_of(tensor if order is None else tensor[order], like)
