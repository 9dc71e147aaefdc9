"""Where to compute: device and dtype by name, or the best there is.

device = pick_device("auto")             # cuda if there is one, else cpu
dtype = pick_dtype("auto", device)       # bfloat16 on cuda, float32 on cpu
two_at_once(device)                      # is there room for a second stage of work beside the first?
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch

from .errors import require

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return a device that exists; `auto` is cuda where there is one, else cpu."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        chosen = None
    known = chosen is not None and chosen.type in ("cpu", "cuda")
    require(known, "device", "must be 'auto', 'cpu' or 'cuda[:n]'", device)
    assert chosen is not None
    # torch keeps an index in 8 bits: a large one comes back negative.
    missing = chosen.type == "cuda" and not 0 <= (chosen.index or 0) < torch.cuda.device_count()
    require(not missing, "device", f"must exist ({torch.cuda.device_count()} cuda devices here)", device)
    if chosen.type == "cuda" and chosen.index is not None:
        # Graphs and kernels are launched on torch's current device.
        rule = "must be torch's current cuda device: choose it by CUDA_VISIBLE_DEVICES or torch.cuda.set_device"
        require(chosen.index == torch.cuda.current_device(), "device", rule, device)
    return chosen


def pick_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype to compute in; `auto` is bfloat16 on cuda and float32 elsewhere."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    known = dtype in (*DTYPES, *DTYPES.values())
    require(known, "dtype", f"must be 'auto' or one of {sorted(DTYPES)}", dtype)
    return DTYPES[dtype] if isinstance(dtype, str) else dtype


def modes_of(device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """What this thread has set for itself, to be entered by another one: inference mode, the CUDA device and stream."""
    inference = torch.is_inference_mode_enabled()
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def enter() -> AbstractContextManager[Any]:
        stack = ExitStack()
        stack.enter_context(torch.inference_mode(inference))
        stack.enter_context(torch.cuda.stream(stream))  # and its device; None does nothing
        return stack

    return enter


def two_at_once(device: torch.device) -> bool:
    """Whether two threads can work without getting in each other's way: on a GPU, or where each has its own cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # With more threads than cores, those that wait for each other at the end of every product wait for long.
    return device.type == "cuda" or 2 * torch.get_num_threads() <= cores
