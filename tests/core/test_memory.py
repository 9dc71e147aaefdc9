"""Memory: freed memory that a process keeps, or returns."""

import platform
import subprocess
import sys

import pytest

# Prints the page faults of filling and freeing 64 MB, eight times.
PROGRAM = """
import resource, torch
from reelm.core.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
keep_freed_memory()
faults()  # the kept memory is touched once
print(plain, faults())
"""

USED = """
import threading, torch
from reelm.core.memory import map_large_blocks, memory_bytes, return_freed_memory

def used():
    return memory_bytes(torch.device("cpu")) / 2**20
"""
# Prints MiB that are used after four threads have freed most of what they had, and when that is returned.
HEAPS = """
def fill(kept=[]):
    kept += [torch.zeros(2000) for _ in range(4000)][::100]

before = used()
threads = [threading.Thread(target=fill) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(used() - before)
return_freed_memory()
print(used() - before)
"""
# Prints MiB that are used after every second of 100 blocks of 2 MiB was freed, where a larger one was freed before.
BLOCKS = """
torch.ones(2**20)  # 4 MiB, up to which glibc takes blocks from its heaps then
before = used()
kept = [torch.ones(2**19) for _ in range(100)][::2]
print(used() - before)
"""
GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")


def figures(program):
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    return map(float, out.split())


@GLIBC
def test_freed_memory_is_used_again():
    plain, kept = figures(PROGRAM)
    assert kept < plain / 8


@GLIBC
def test_what_threads_and_large_blocks_leave_is_returned():
    freed, returned = figures(USED + HEAPS)
    assert returned < freed / 4
    (plain,), (mapped,) = figures(USED + BLOCKS), figures(f"{USED}map_large_blocks(){BLOCKS}")
    assert mapped < 120 < 180 < plain
