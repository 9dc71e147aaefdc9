"""Whether there is memory for what is asked: refused before anything is allocated, with what would fit.

    admit_model(config, device, dtype=dtype)            # before a model is loaded
    admit(parts, request)                               # before a call of a loaded model draws its first token

A call is planned as `plan_memory` does it, less what is loaded already, and held against what is free at that moment.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..core.errors import ReelmError
from ..core.memory import available_memory
from ..sampling.decoders import MOST_FRAMES
from .memory_plan import MemoryPlan, clip_bytes, plan_loaded, plan_memory, require_memory, show_bytes
from .pretrained import ModelConfig, Pretrained
from .request import MAX_SECONDS, Request

CPU = torch.device("cpu")


def admit_model(config: ModelConfig, device: torch.device, **kinds: Any) -> None:
    """Refuse a model that does not fit with one latent frame of one clip.

    Args:
        config: of the model.
        device: where it is to run.
        kinds: `dtype`, `weights` and `cache` of `plan_memory`.

    Raises:
        ReelmError: it says what is wanted and what there is.
    """
    require_memory(plan_memory(config, seconds=0.1, device=device.type, **kinds), available_memory(device))


def admit(
    parts: Pretrained, request: Request, *, keep_state: bool = False, continuing: bool = False, whole: bool = True
) -> MemoryPlan:
    """Refuse a call that does not fit; the plan of one that does.

    Args:
        parts: the model, loaded.
        request: of the call.
        keep_state: whether what the clips go on from is kept.
        continuing: whether a clip is continued.
        whole: whether all frames are kept until the end; else they are handed out as they come.

    Raises:
        ReelmError: it says what is wanted, what there is, and what would fit.
    """
    clips, numerics, device = len(request.plans), parts.lm.numerics, parts.lm.device
    lengths = [plan.latent_frames or 1 for plan in request.plans]
    options: dict[str, Any] = {
        "sampling": request.sampling, "keep_state": keep_state, "continuing": continuing,
        "block_size": _positions(parts.config, request), "numerics": numerics,
    }  # fmt: skip
    plan = plan_call(parts.config, lengths, batch=request.batch_size, whole=whole, **options)
    free = available_memory(device)
    host = available_memory(CPU) if plan.host else None
    if _fits(plan, free, host):
        return plan
    on_device = free is not None and plan.call > free
    wanted, there, where = (plan.call, free, plan.device) if on_device else (plan.host, host, "the GPU's host")
    raise ReelmError(
        f"memory: must be at least {show_bytes(wanted)} beside the loaded model for {clips} clips of up to "
        f"{plan.seconds:g} s, {plan.batch} at a time, in {plan.dtype} on {where}, got {show_bytes(there or 0)}; "
        f"{_what_fits(parts.config, lengths, plan.batch, lambda plan: _fits(plan, free, host), whole, options)}"
    )


def plan_call(
    config: ModelConfig, lengths: Sequence[int], *, batch: int, whole: bool = True, **options: Any
) -> MemoryPlan:
    """The plan of clips of so many latent frames, which need not be of one length.

    Args:
        config: of the model.
        lengths: latent frames of each clip.
        batch: clips at a time.
        whole: see `admit`.
        options: those of `plan_loaded` but `seconds` and `clips`.
    """
    seconds = config.tokenizer.compression.frames(max(lengths)) / config.fps
    plan = plan_loaded(config, seconds=min(seconds, MAX_SECONDS), batch=batch, clips=len(lengths), **options)
    alike = Counter(lengths)
    real = sum(count * clip_bytes(config, length) for length, count in alike.items()) if whole else 0
    saved = len(lengths) * clip_bytes(config, max(lengths)) - real
    return dataclasses.replace(
        plan,
        seconds=seconds,
        frames=max(0, plan.frames - saved),
        joining=max(0, plan.joining - saved),
        host=max(0, plan.host - saved * (2 if options.get("continuing") else 1)),
    )


def _positions(config: ModelConfig, request: Request) -> int:
    """What a pass of the request's decoder looks at; one's own need not tell, and is taken to look at one."""
    return max(1, min(getattr(request.decoder, "block_size", 1), MOST_FRAMES * config.lm.layout.frame_size))


def _fits(plan: MemoryPlan, free: int | None, host: int | None) -> bool:
    return (free is None or plan.call <= free) and (host is None or plan.host <= host)


def _what_fits(
    config: ModelConfig, lengths: list[int], batch: int, fits: Callable[[MemoryPlan], bool], whole: bool,
    options: dict[str, Any],
) -> str:  # fmt: skip
    """In words: fewer clips at a time, else fewer clips in all, else a shorter one."""

    def fit(lengths: list[int], batch: int) -> bool:
        # With another batch size "auto" may take another block: what fits has to fit with both.
        both = ({**options, "block_size": size} for size in (options["block_size"], None))
        return all(fits(plan_call(config, lengths, batch=batch, whole=whole, **each)) for each in both)

    fewer = _most(batch - 1, lambda number: fit(lengths, number))
    if fewer:
        return f"batch_size={fewer} would fit"
    fewer = _most(len(lengths) - 1, lambda number: fit(sorted(lengths)[-number:], 1))
    if fewer:
        return f"{fewer} of these clips a call with batch_size=1 would fit"
    shorter = _most(max(lengths) - 1, lambda number: fit([number], 1))
    if shorter:
        return f"one clip of {config.tokenizer.compression.frames(shorter) / config.fps:g} s would fit"
    return "not even one latent frame would fit"


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 1 to `limit` that fits, where all below one that fits do too; 0 where none does."""
    low, high = 0, max(0, limit)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
