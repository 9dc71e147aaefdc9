"""The memory in use and the memory available, of a GPU or of this machine.

free = available_memory(device)                         # bytes, or None
keep_freed_memory()                                     # before a training on a CPU
map_large_blocks()                                      # before a server runs
return_freed_memory()                                   # now and then, in a server
"""

import ctypes
import gc
import os
import sys
from pathlib import Path

import torch

# Options of glibc's mallopt; a threshold of -1 is none.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
LARGE = 2**20  # bytes


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak of the memory in use so far: of torch's allocator on a GPU, of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    # ru_maxrss is in kibibytes on Linux and in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_bytes(device: torch.device) -> int:
    """Return the bytes in use now, of torch's allocator on a GPU or of the process on Linux; elsewhere the peak."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    pages = Path("/proc/self/statm")
    if not pages.exists():
        return peak_memory_bytes(device)
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def available_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Return the bytes that this process can still allocate, or None where the system does not report them.

    For a GPU these are the driver's free bytes plus those that torch has reserved but not allocated. On Linux they are
    the smallest of the kernel's available bytes and of what is left under the limits of this process's control groups
    (version 1 or 2) and of all their parent groups. A group's file cache counts as free.

    Args:
        device: The GPU, or the CPU.
        root: The root of the file system.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    free = [_kernel_available(root / "proc/meminfo")]
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            top, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        # In a container the path may be that of the host, where no folder exists here; the top folder always exists.
        group = top / path.lstrip("/")
        groups = [group, *group.parents]
        free += [_group_available(folder, *names) for folder in groups[: groups.index(top) + 1]]
    return min((size for size in free if size is not None), default=None)


def keep_freed_memory() -> None:
    """Keep the memory that is freed from now on in this process, in place of returning it to the system.

    A training on a CPU allocates the same large tensors in each step. By default glibc maps them anew each time, and
    the kernel fills them with zeros, page by page. This changes the whole process (mallopt(3)), for which the main
    program decides; it has no effect where the C library is another one.
    """
    for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 2**28)):
        _call_glibc("mallopt", option, value)


def map_large_blocks() -> None:
    """Take blocks of 1 MiB and more from the system by themselves from now on, and return each when it is freed.

    With each large block that is freed glibc takes larger ones, up to 32 MiB, from its heaps, where they lie between
    small pieces that stay (mallopt(3)). So the heaps of a process with blocks of many sizes grow for hours.
    """
    _call_glibc("mallopt", M_MMAP_THRESHOLD, LARGE)


def return_freed_memory() -> None:
    """Return the memory of objects that are not used any more to the system.

    Python frees objects that refer to each other now and then only, and by default glibc keeps what threads have freed
    between pieces that are still in use, for each of up to eight heaps a core, so that a process of many threads grows
    (malloc_trim(3)). The latter has no effect where the C library is another one.
    """
    gc.collect()
    _call_glibc("malloc_trim", 0)


def _call_glibc(name: str, *values: int) -> None:
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # no such function, or no library of the process itself (Windows)
        return
    function(*values)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _kernel_available(path: Path) -> int | None:
    fields = (line.split() for line in _text(path).splitlines())
    return next((int(field[1]) * 1024 for field in fields if field[:1] == ["MemAvailable:"]), None)


def _group_available(folder: Path, limit_name: str, used_name: str) -> int | None:
    """Return the bytes that are left under a control group's limit; None where it has no limit."""
    limit, used = _number(_text(folder / limit_name)), _number(_text(folder / used_name))
    if limit is None or used is None or limit >= 2**60:  # version 1 writes a very large number for no limit
        return None
    stat = dict(line.split(maxsplit=1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
    files = _number(stat.get("total_inactive_file", stat.get("inactive_file", "0"))) or 0
    return max(0, limit - max(0, used - files))
