"""The clock of a device: moments in its work, and the seconds between them.

start = now(device); …; seconds = now(device) - start
"""

import time
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
