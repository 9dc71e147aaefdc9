"""What a benchmark has to know of the machine: its name, its memory, and how fast it can copy and multiply.

ceilings = measure_ceilings(device, torch.float32)      # {"copy_gb_s": …, "matmul_gflop_s": …}
"""

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch


def now(device: torch.device) -> float:
    """Seconds, after all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def machine_name(device: torch.device) -> str:
    """The processor that does the work."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory in use so far: of the device's allocator on a GPU, of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    # Kibibytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_bytes(device: torch.device) -> int:
    """The memory in use now, where the system tells it (a GPU's allocator, or Linux); else the peak."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    pages = Path("/proc/self/statm")
    if not pages.exists():
        return peak_memory_bytes(device)
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure_ceilings(device: torch.device, dtype: torch.dtype, *, check: bool = False) -> dict[str, Any]:
    """What this machine reaches in this process: bytes a second of a copy (read and written), products a second.

    Args:
        device, dtype: of the matrices.
        check: tiny sizes, for a test of the command.
    """
    megabytes, side = (
        (4, 64) if check else (1024 if device.type == "cuda" else 256, 4096 if device.type == "cuda" else 1024)
    )
    source = torch.ones(megabytes * 2**20, dtype=torch.uint8, device=device)
    target, matrix = torch.empty_like(source), torch.randn(side, side, device=device, dtype=dtype)
    best_copy = best_product = float("inf")
    for _ in range(3 if check else 10):
        start = now(device)
        target.copy_(source)
        best_copy = min(best_copy, now(device) - start)
        start = now(device)
        matrix @ matrix
        best_product = min(best_product, now(device) - start)
    return {
        "copy_gb_s": 2 * source.numel() / best_copy / 1e9,
        "matmul_gflop_s": 2 * side**3 / best_product / 1e9,
    }
