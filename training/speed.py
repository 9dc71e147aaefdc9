"""The speed of a training: its data a second, and the share of the chip's peak that computes it (MFU).

    speed = Speed(Work("tokens", amount, flops), device, processes=8)
    speed.count(step, seconds)              # after each step
    speed.figures()                         # {"steps_per_second": ..., "tokens_per_second": ..., "mfu": ...}

MFU, model FLOPs utilization, counts the FLOPs that the model needs, whatever is computed beside them or twice
(Chowdhery et al. 2022, arXiv 2204.02311).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..lm.lm_config import LMConfig
from ..lm.neighbours import neighbours

# Dense bfloat16 FLOPs a second by the data sheets of NVIDIA, and what the names of the chips have in them.
PEAKS = {
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
}


@dataclass(frozen=True)
class Work:
    """What the steps of a training process.

    Attributes:
        unit: The name of what is counted, such as "tokens".
        amount: A function from a step to the number of units of its batch, on all processes.
        flops: A function from a step to the floating-point operations of its batch, where they are known.
    """

    unit: str
    amount: Callable[[int], float]
    flops: Callable[[int], float] | None = None


class Speed:
    """Counts what a training processes between two reports."""

    def __init__(self, work: Work, device: torch.device, processes: int) -> None:
        self._work, self._peak = work, peak_flops(device) * processes
        self._steps, self._units, self._flops, self._seconds = 0, 0.0, 0.0, 0.0

    def count(self, step: int, seconds: float) -> None:
        """Count a step, which took so long."""
        self._steps += 1
        self._seconds += seconds
        self._units += self._work.amount(step)
        if self._work.flops is not None:
            self._flops += self._work.flops(step)

    def figures(self) -> dict[str, float]:
        """Return the speed of the steps since the last call; empty where there were none."""
        seconds, steps, units, flops = self._seconds, self._steps, self._units, self._flops
        self._steps, self._units, self._flops, self._seconds = 0, 0.0, 0.0, 0.0
        if not steps:
            return {}
        found = {"steps_per_second": steps / seconds, f"{self._work.unit}_per_second": units / seconds}
        if flops:
            found["flops_per_second"] = flops / seconds
        if flops and self._peak:
            found["mfu"] = flops / seconds / self._peak
        return {name: float(f"{value:.4g}") for name, value in found.items()}


def peak_flops(device: torch.device) -> float:
    """Return the peak of a device in bfloat16 FLOPs a second, or 0 where it is not known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = "MIG" not in name  # a slice of a chip
    return next((peak for chip, peak in PEAKS.items() if chip in name and known), 0.0)


def training_flops(config: LMConfig, clips: int, frames: int) -> float:
    """Return the floating-point operations of a step on clips: a forward pass, and twice that for the gradients.

    A product of a matrix takes two for each weight and position; attention takes four for each channel of a pair of a
    query and a slot that it sees.

    Args:
        config: The sizes of the model.
        clips: The number of clips.
        frames: The latent frames of each.
    """
    pairs = clips * attended_slots(config, frames)
    return matrix_flops(config, clips, frames) + 3 * 4 * config.depth * config.heads * config.head_dim * pairs


def matrix_flops(config: LMConfig, clips: int, frames: int) -> float:
    """Return those of the products with weights."""
    text, video = clips * config.prefix, clips * frames * config.frame_size
    ends = config.width * (config.vocab_size + len(neighbours(config.order)) * config.neighbour_dim)
    return 3.0 * 2 * (config.depth * layer_weights(config) * (text + video) + ends * video)


def layer_weights(config: LMConfig) -> int:
    """Return the number of weights of the matrices of a layer."""
    heads, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    return config.width * (2 * heads + 2 * keys + 3 * config.hidden)


@functools.cache
def attended_slots(config: LMConfig, frames: int, block: int = 1) -> float:
    """Return the number of pairs of a query and a slot of a clip whose scores are computed, in a head of a layer.

    Args:
        config: The sizes of the model.
        frames: The latent frames of the clip.
        block: The number of queries that are computed together, each with all slots that one of them sees.
    """
    size, length = config.frame_size, frames * config.frame_size
    pairs = float(config.prefix**2)
    for start in range(0, length, block):
        stop = min(length, start + block)
        first = max(0, start // size - config.window + 1) * size
        pairs += (stop - start) * (config.prefix + stop - first)
    return pairs
