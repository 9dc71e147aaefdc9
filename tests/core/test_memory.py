"""Memory: freed memory that a process keeps."""

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")
def test_freed_memory_is_used_again():
    out = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    plain, kept = map(int, out.split())
    assert kept < plain / 8
