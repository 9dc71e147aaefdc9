"""The processes that torchrun has started, where they hold a model together.

join_processes(2, torch.device("cpu"))                  # in each of them, before the model is loaded
"""

import atexit
import os
import sys

import torch
import torch.distributed as dist

from .errors import require


def join_processes(count: int, device: torch.device) -> None:
    """Join the processes, unless they are joined; the others than the first one print to stderr alone.

    Args:
        count: Their number.
        device: The device of this process.

    Raises:
        ReelmError: They are another number, or torchrun has started none.
    """
    if not dist.is_initialized():
        started = int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1
        require(started == count, "processes", f"must be the number that torchrun has started, {started}", count)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
        if dist.get_rank() > 0:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)
    size = dist.get_world_size()
    require(size == count, "processes", f"must be the number of processes, {size}", count)


def own_device(device: str | torch.device, count: int) -> str | torch.device:
    """Return the device of this process: the GPU of its number on its machine, unless one is named."""
    on_gpu = count > 1 and str(device) in ("auto", "cuda") and torch.cuda.is_available()
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if on_gpu else device
