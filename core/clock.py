"""The clock of a device: time stamps in its queue of work, and the seconds between them.

start = now(device); …; seconds = now(device) - start
"""

import time
from typing import TypeAlias

import torch

Mark: TypeAlias = "float | torch.cuda.Event"


def now(device: torch.device) -> float:
    """Wait until the device has finished all queued work, and return the time in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def mark(device: torch.device) -> Mark:
    """Return a time stamp in the device's queue of work, without waiting for the device."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(first: Mark, last: Mark) -> float:
    """Return the seconds from one mark to a later mark of the same device, once the device has passed both."""
    if isinstance(first, float) and isinstance(last, float):
        return last - first
    assert isinstance(first, torch.cuda.Event) and isinstance(last, torch.cuda.Event)
    return float(first.elapsed_time(last)) / 1e3
