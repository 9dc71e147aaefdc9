#!/usr/bin/env bash
# OpenVINO 2026.4.1's CPU plugin gives the thread that loads it an alternate signal stack (sigaltstack(2)), and unmaps
# that memory when its last compiled model is freed. Where another thread frees it, such as a worker or the one in which
# the garbage collector happens to run, the first thread keeps the address of memory that is not there. Python (3.10 and
# newer) and other runtimes ask for their signal handlers to run on the alternate stack. Seen here (Linux x86-64, with
# and without AMX, Python 3.11):
#
#   before                      no alternate stack
#   a model is compiled         a stack of some 11 KiB, mapped
#   freed by the same thread    no alternate stack
#   freed by another thread     the same address as while it was loaded, not mapped
#
# A program that keeps one ov.Core and one compiled model until it ends does not meet this. No signal is sent here.
# Exits with 0 while this is so, and with 1 as soon as it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install openvino==2026.4.1 numpy
HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import ctypes
import gc
import sys
import threading
from pathlib import Path

import openvino as ov
from openvino import opset15 as ops


class Stack(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def signal_stack():
    """The address of this thread's alternate signal stack (0 for none), and whether it is mapped."""
    stack = Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    address = stack.address or 0
    ranges = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
    return address, any(int(first, 16) <= address < int(last, 16) for first, last in ranges)


def compiled():
    x = ops.parameter([-1, 4])
    return [ov.Core().compile_model(ov.Model([ops.relu(x).output(0)], [x], "relu"), "CPU")]


def free(models):
    models.clear()
    gc.collect()


found = {"before": signal_stack()}
models = compiled()
found["compiled"] = signal_stack()
free(models)
found["freed by this thread"] = signal_stack()
models = compiled()
loaded = signal_stack()
thread = threading.Thread(target=free, args=(models,))
thread.start()
thread.join()
found["freed by another thread"] = signal_stack()
for name, (address, mapped) in found.items():
    print(f"{name:24} {'no stack' if not address else 'mapped' if mapped else 'not mapped'}")
same = (
    not found["before"][0] and found["compiled"][1] and not found["freed by this thread"][0]
    and loaded[1] and found["freed by another thread"] == (loaded[0], False)
)
sys.exit(0 if same else 1)
PYTHON
