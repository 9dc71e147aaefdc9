"""The memory of the machine: what is in use, and what is free.

free = available_memory(device)                         # bytes, or None
"""

import os
import sys
from pathlib import Path

import torch


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
