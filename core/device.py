"""The device and dtype to compute with, by name or chosen automatically.

device = pick_device("auto")             # cuda if there is one, else cpu
dtype = pick_dtype("auto", device)       # bfloat16 on cuda, float32 on cpu
faster_in_bfloat16(device)               # are its products in bfloat16 faster than in float32?
can_overlap(device)                      # can two threads compute at the same time?
"""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack

import torch

from .errors import require
from .modes import plain_modes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device of this name; "auto" is cuda where there is one, else cpu.

    Raises:
        ReelmError: There is no such device here, or it is not torch's current cuda device.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        chosen = None
    known = chosen is not None and chosen.type in ("cpu", "cuda")
    require(known, "device", "must be 'auto', 'cpu' or 'cuda[:n]'", device)
    assert chosen is not None
    # torch stores an index in 8 bits, so a large one becomes negative.
    missing = chosen.type == "cuda" and not 0 <= (chosen.index or 0) < torch.cuda.device_count()
    require(not missing, "device", f"must exist ({torch.cuda.device_count()} cuda devices here)", device)
    if chosen.type == "cuda" and chosen.index is not None:
        # CUDA graphs and Triton kernels run on torch's current device only.
        rule = "must be torch's current cuda device: choose it by CUDA_VISIBLE_DEVICES or torch.cuda.set_device"
        require(chosen.index == torch.cuda.current_device(), "device", rule, device)
    return chosen


def pick_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of this name; "auto" is bfloat16 on cuda and float32 elsewhere.

    Raises:
        ReelmError: The dtype is not one of `DTYPES`.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    known = dtype in (*DTYPES, *DTYPES.values())
    require(known, "dtype", f"must be 'auto' or one of {sorted(DTYPES)}", dtype)
    return DTYPES[dtype] if isinstance(dtype, str) else dtype


def faster_in_bfloat16(device: torch.device) -> bool:
    """Return whether products in bfloat16 are faster than in float32: on a GPU, or on a CPU if a short trial says so.

    That a CPU has instructions for them tells too little. With AVX512-BF16, a step of a training took 0.6 of the time
    of float32 on a Zen 5, and 1.3 times as long on a Xeon without AMX. Without it, they are a hundred times slower.
    """
    if device.type == "cuda" or not torch.cpu._is_avx512_bf16_supported():
        return device.type == "cuda"
    return _product_seconds(torch.bfloat16) < 0.9 * _product_seconds(torch.float32)


def _product_seconds(dtype: torch.dtype) -> float:
    """Return the least time of some products of matrices of 512 x 512 numbers on the CPU."""
    matrix, times = torch.ones(512, 512, dtype=dtype), []
    for _ in range(8):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        times.append(time.perf_counter() - start)
    return min(times)


def thread_modes(device: torch.device) -> Callable[[], ExitStack]:
    """Return a function that makes a context manager with the modes to compute in, for use in another thread.

    They are `plain_modes` and the calling thread's CUDA device and stream, which torch keeps for each thread.
    """
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def modes() -> ExitStack:
        stack = ExitStack()
        stack.enter_context(plain_modes())
        stack.enter_context(torch.cuda.stream(stream))  # this sets the device too; None does nothing
        return stack

    return modes


def cpu_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def can_overlap(device: torch.device) -> bool:
    """Return whether two threads can compute without slowing each other: on a GPU, or with enough CPU cores."""
    # torch's threads wait for each other after every matrix product, which takes long with more threads than cores.
    return device.type == "cuda" or 2 * torch.get_num_threads() <= cpu_cores()
