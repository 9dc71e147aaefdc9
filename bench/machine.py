"""The machine that runs a benchmark: its name, and its measured copy bandwidth and matrix multiplication rate.

ceilings = measure_ceilings(device, torch.float32)      # {"copy_gb_s": …, "matmul_gflop_s": …}
library_versions()["torch"]                             # "2.13.0+cpu"
"""

import importlib.metadata
import platform
from pathlib import Path

import torch

from ..core.clock import now

# What computes, reads clips or measures: figures may differ between two versions of these.
LIBRARIES = (
    "reelm", "torch", "triton", "numpy", "vector-quantize-pytorch", "sentencepiece", "safetensors", "av", "pillow",
    "scikit-image", "transformers",
)  # fmt: skip


def machine_name(device: torch.device) -> str:
    """Return the name of the processor that computes on this device, or the best description that the system gives."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")  # on Linux platform.processor() is often empty
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (*names, platform.processor(), platform.machine())[0] or platform.machine()


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that figures depend on, by name."""
    found = {name: [each.version for each in importlib.metadata.distributions(name=name)] for name in LIBRARIES}
    return {"python": platform.python_version(), **{name: each[0] for name, each in found.items() if each}}


def measure_ceilings(device: torch.device, dtype: torch.dtype, *, check: bool = False) -> dict[str, float]:
    """Measure the best copy bandwidth and matrix multiplication rate that this process reaches on this machine.

    Args:
        device, dtype: The device that is measured, and the dtype of the matrices.
        check: Whether to use tiny sizes, for a test of the command.

    Returns:
        "copy_gb_s", the GB that a copy reads and writes in a second, and "matmul_gflop_s", in GFLOP/s.
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
