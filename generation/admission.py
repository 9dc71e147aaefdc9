"""Refuse models and calls that do not fit into memory before anything is allocated, and say what would fit.

    load_admitted("world", "auto", {}, {})              # a model, before whose weights are read
    admit(parts, request)                               # before a call of a loaded model draws its first token

The plan of a call is that of `plan_memory` without what is already loaded, compared with the memory free at that time.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..core.checkpoint import find_checkpoint
from ..core.device import pick_device
from ..core.errors import ReelmError
from ..core.memory import available_memory
from ..core.processes import own_device
from ..core.protocols import Numerics
from ..lm.quantization import pick_numerics
from ..sampling.decoders import MAX_FRAMES
from ..sampling.plan import SamplingConfig
from .memory_plan import MemoryPlan, clip_bytes, plan_loaded, require_memory, show_bytes
from .pretrained import HubOptions, ModelConfig, NumericsOptions, Pretrained, load_pretrained, read_config
from .request import MAX_SECONDS, Request

CPU = torch.device("cpu")


def load_admitted(
    model: str | Path, device: str | torch.device, numerics: NumericsOptions, hub: HubOptions, *, processes: int = 1
) -> Pretrained:
    """Load a model as `load_pretrained` does, unless it does not fit with one latent frame of one clip.

    Args:
        model: The bundled name, folder or hub id.
        device: The device on which it will run.
        numerics: The dtype and the precisions.
        hub: The options for a hub id.
        processes: The number of processes that hold the language model together.

    Raises:
        ReelmError: The message states the required and the available memory; or those of `load_pretrained`.
    """
    chosen, config = pick_device(own_device(device, processes)), read_config(find_checkpoint(model, **hub))
    named: NumericsOptions = {"dtype": "auto", "weights": "full", "cache": "full", **numerics}
    plan = plan_loaded(config, pick_numerics(**named, device=chosen, processes=processes), seconds=0.1)
    require_memory(plan, available_memory(chosen))
    return load_pretrained(model, device=chosen, processes=processes, **numerics, **hub)


def admit(
    parts: Pretrained, request: Request, *, keep_state: bool = False, continuing: bool = False, whole: bool = True
) -> MemoryPlan:
    """Refuse a call that does not fit, and return the plan of one that does.

    Args:
        parts: The loaded model.
        request: The request of the call.
        keep_state: Whether the cache states of the clips are kept.
        continuing: Whether a clip is continued.
        whole: Whether all frames are kept until the end; otherwise they are handed out as they come.

    Raises:
        ReelmError: The message states the required and the available memory, and what would fit.
    """
    clips, numerics, device = len(request.plans), parts.lm.numerics, parts.lm.device
    lengths = [plan.latent_frames or 1 for plan in request.plans]
    block_size = _block_size(parts.config, request)
    # Where a clip has a negative prompt, every clip of the engine has two rows.
    sampling = dataclasses.replace(request.sampling, guidance="two-row") if request.negatives else request.sampling

    def planned(lengths: Sequence[int], batch: int, block_size: int | None) -> MemoryPlan:
        return plan_call(
            parts.config, numerics, lengths, batch=batch, whole=whole, sampling=sampling, block_size=block_size,
            keep_state=keep_state, continuing=continuing,
        )  # fmt: skip

    plan = planned(lengths, request.batch_size, block_size)
    free = available_memory(device)
    host = available_memory(CPU) if plan.host else None

    def fits(lengths: Sequence[int], batch: int) -> bool:
        # With another batch size "auto" may take another block: what fits has to fit with both.
        plans = (planned(lengths, batch, size) for size in (block_size, None))
        return all(_fits(plan, free, host) for plan in plans)

    if _fits(plan, free, host):
        return plan
    on_device = free is not None and plan.call > free
    needed, available, place = (plan.call, free, plan.device) if on_device else (plan.host, host, "the GPU's host")
    raise ReelmError(
        f"memory: must be at least {show_bytes(needed)} beside the loaded model for {clips} clips of up to "
        f"{plan.seconds:g} s, {plan.batch} at a time, in {plan.dtype} on {place}, got {show_bytes(available or 0)}; "
        f"{_what_fits(parts.config, lengths, plan.batch, fits)}"
    )


def plan_call(
    config: ModelConfig, numerics: Numerics, lengths: Sequence[int], *, batch: int, whole: bool = True,
    sampling: SamplingConfig | None = None, block_size: int | None = None, keep_state: bool | None = None,
    continuing: bool = False,
) -> MemoryPlan:  # fmt: skip
    """Return the plan of clips of so many latent frames, which need not be of one length.

    Args:
        config: The config of the model.
        numerics: The numerics of the language model.
        lengths: The latent frames of each clip.
        batch: The number of clips drawn at a time.
        whole: Whether all frames are kept until the end; see `admit`.
        sampling, block_size, keep_state, continuing: As in `plan_memory`.
    """
    seconds = config.tokenizer.compression.frames(max(lengths)) / config.fps
    plan = plan_loaded(
        config, numerics, seconds=min(seconds, MAX_SECONDS), batch=batch, clips=len(lengths), sampling=sampling,
        block_size=block_size, keep_state=keep_state, continuing=continuing,
    )  # fmt: skip
    counts = Counter(lengths)
    real = sum(count * clip_bytes(config, length) for length, count in counts.items()) if whole else 0
    saved = len(lengths) * clip_bytes(config, max(lengths)) - real
    return dataclasses.replace(
        plan,
        seconds=seconds,
        frames=max(0, plan.frames - saved),
        joining=max(0, plan.joining - saved),
        host=max(0, plan.host - saved * (2 if continuing else 1)),
    )


def _block_size(config: ModelConfig, request: Request) -> int:
    """Return the positions that a pass of the request's decoder looks at; one where a decoder does not say."""
    return max(1, min(getattr(request.decoder, "block_size", 1), MAX_FRAMES * config.lm.layout.frame_size))


def _fits(plan: MemoryPlan, free: int | None, host: int | None) -> bool:
    return (free is None or plan.call <= free) and (host is None or plan.host <= host)


def _what_fits(config: ModelConfig, lengths: list[int], batch: int, fits: Callable[[Sequence[int], int], bool]) -> str:
    """Return as text what would fit: fewer clips at a time, else fewer clips in all, else a shorter one."""
    fewer = _largest(batch - 1, lambda number: fits(lengths, number))
    if fewer:
        return f"batch_size={fewer} would fit"
    fewer = _largest(len(lengths) - 1, lambda number: fits(sorted(lengths)[-number:], 1))
    if fewer:
        return f"{fewer} of these clips a call with batch_size=1 would fit"
    shorter = _largest(max(lengths) - 1, lambda number: fits([number], 1))
    if shorter:
        return f"one clip of {config.tokenizer.compression.frames(shorter) / config.fps:g} s would fit"
    return "not even one latent frame would fit"


def _largest(limit: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number from 1 to `limit` that fits, as do all numbers below it; 0 where none fits."""
    low, high = 0, max(0, limit)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
