"""What there is to know of the machine: its name, its memory, what of it is free, how fast it can copy and multiply.

ceilings = measure_ceilings(device, torch.float32)      # {"copy_gb_s": …, "matmul_gflop_s": …}
free = available_memory(device)                         # bytes, or None
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


def mark(device: torch.device) -> "float | torch.cuda.Event":
    """A moment in the work of the device, which does not wait for it."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(first: Any, last: Any) -> float:
    """From one mark to a later one, when the work is done."""
    return float(last - first) if isinstance(first, float) else first.elapsed_time(last) / 1e3


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


def available_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that are free for this process, or None where the system does not tell.

    Of a GPU what its driver says, and what torch holds of it without use; on Linux what the kernel says, or what the
    limits of this process's control groups (version 1 or 2) and of all groups around them leave, whichever is least.
    A group's cache of files counts as free.

    Args:
        device: the GPU, or the CPU.
        root: of the file system.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    free = [_kernel_says(root / "proc/meminfo")]
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            top, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        # Within a container the path may be that of the host, and not be there; the top is always there.
        group = top / path.lstrip("/")
        groups = [group, *group.parents]
        free += [_group_leaves(folder, *names) for folder in groups[: groups.index(top) + 1]]
    return min((size for size in free if size is not None), default=None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _kernel_says(path: Path) -> int | None:
    fields = (line.split() for line in _text(path).splitlines())
    return next((int(field[1]) * 1024 for field in fields if field[:1] == ["MemAvailable:"]), None)


def _group_leaves(folder: Path, limit_name: str, used_name: str) -> int | None:
    """What a control group's limit leaves; None where it has none."""
    limit, used = _number(_text(folder / limit_name)), _number(_text(folder / used_name))
    if limit is None or used is None or limit >= 2**60:  # version 1 writes a very large number for none
        return None
    stat = dict(line.split(maxsplit=1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
    files = _number(stat.get("total_inactive_file", stat.get("inactive_file", "0"))) or 0
    return max(0, limit - max(0, used - files))
