"""The state of a training: weights, moving average, optimizers and step.

    state = TrainState(model, config)
    state.begin_step()
    state.backward(loss(model, step, share))
    norm = state.advance()
    folders.begin(state.tensors(), state.values())          # state_folders.py
    state.load(newest_state(run))           # of any number of processes: any other number goes on with it

With several processes (ranks.py) each may have a part of every tensor.
"""

from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..core.device import faster_in_bfloat16
from ..core.errors import CheckpointError, require
from ..lm.blocks import Block
from ..tokenizer.network import ResidualBlock
from .divided_tensors import local, part_of, whole
from .ranks import ONE_RANK, Ranks
from .state_folders import ORDER, SavedState, StateValues, in_order
from .step_guard import StepGuard
from .tensor_parallel import Division, clip_gradients
from .train_config import TrainConfig


def make_optimizers(model: nn.Module, config: TrainConfig, *, one_by_one: bool = False) -> list[torch.optim.Optimizer]:
    """Return AdamW for all parameters, or Muon for the matrices inside the blocks and AdamW for the rest.

    Args:
        model: The model.
        config: The options of the training.
        one_by_one: Whether AdamW takes one parameter after the other, as where they are divided in several ways.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # Muon is meant for hidden matrices; AdamW trains the embeddings and the head (Jordan et al. 2024).
    hidden = [
        p for name, p in parameters.items()
        # One of two thin matrices (low_rank.py) is no map between hidden states.
        if config.optimizer == "muon" and p.ndim == 2 and "blocks." in name and ".parametrizations." not in name
    ]  # fmt: skip
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
    """The weights, moving average, optimizers and step of a run.

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
        self.average = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
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

    def values(self) -> StateValues:
        """Return the numbers and texts of the state."""
        mean_norm, accepted, left_out = self.guard.values()
        return StateValues(self.step, self.config.steps, self.precision, mean_norm, accepted, left_out)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the state by their names, and the orders of rows of those that have one."""
        named: dict[str, torch.Tensor] = {}
        for name, tensor, order in [*self._weights(), *self._moments()]:
            named |= {name: tensor} if order is None else {name: tensor, ORDER + name: order}
        return named

    def _weights(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor | None]]:
        """Yield the names of weights and their averages, the tensors, and the orders of their rows, if any."""
        orders = self._division.orders
        for group, module in self.modules.items():
            own = orders if module is self.model else {}
            yield from ((f"{group}.{name}", tensor, own.get(name)) for name, tensor in module.state_dict().items())
        yield from ((f"average.{name}", tensor, orders.get(name)) for name, tensor in self.average.items())

    def _moments(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor | None]]:
        """Yield the same of what the optimizers keep."""
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

    def load(self, saved: SavedState, group: dist.ProcessGroup | None = None) -> None:
        """Read a state that any number of processes have saved.

        Args:
            saved: The state.
            group: The processes, which must all ask for it; None where there is one.

        Raises:
            CheckpointError: The state is damaged, or belongs to another model or optimizer.
        """
        values, sizes = saved.values(), saved.sizes()
        self.step, self.precision = values.step, values.precision
        self.guard.load(values.mean_norm, values.accepted_steps, values.left_out_steps)
        wanted = {name: tensor.shape for name, tensor, _ in self._weights()}
        found = {name: size for name, size in sizes.items() if not name.startswith((ORDER, "optimizer."))}
        if others := sorted(name for name, _ in wanted.items() ^ found.items()):
            raise CheckpointError(f"resume: {saved.folder.name} must belong to this model, got another {others[0]}")
        self._make_moments(saved.folder.name, sizes, none=values.accepted_steps == 0)
        orders = saved.tensors(lambda name: name.startswith(ORDER))
        same: dict[str, torch.Tensor] = {}
        for name, tensor, order in [*self._weights(), *self._moments()]:
            theirs = orders.get(ORDER + name)
            if theirs is order or (theirs is not None and order is not None and theirs.equal(order)):
                same[name] = tensor
                continue
            # One after the other, since each process reads the whole of such a tensor.
            rows = in_order(saved.tensors(name.__eq__)[name], theirs)
            local(tensor).copy_(local(part_of(rows if order is None else rows[order], tensor)))
        saved.read_into(same, group)

    def _make_moments(self, folder: str, sizes: Mapping[str, torch.Size], *, none: bool) -> None:
        """Give the optimizers the tensors that a saved state has of them, to be read; there may be `none`."""
        states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in self.optimizers]
        owners = [[p for p, _ in self._parameters(optimizer)] for optimizer in self.optimizers]
        fits = True
        for name, size in sizes.items():
            group, _, rest = name.partition(".")
            if group == "optimizer":
                index, number, key = rest.split(".")
                mine = owners[int(index)] if int(index) < len(owners) else []
                fits = fits and int(number) < len(mine) and size in (mine[int(number)].shape, torch.Size())
                if fits:
                    like = mine[int(number)]
                    moment = torch.zeros_like(like) if like.shape == size else torch.zeros(size)
                    states[int(index)].setdefault(int(number), {})[key] = moment
        # A parameter that never had a gradient has no state, but no optimizer is without any.
        if not (fits and (all(states) or (none and not any(states)))):
            raise CheckpointError(f"resume: {folder} must belong to this optimizer ({self.config.optimizer})")
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
