"""What a model is, and what its clips will take, without making any: what `reelm info` calls.

print(describe_model("world"))                      # sizes, settings, versions; .values is JSON
print(plan_clips("world", seconds=20, batch=16))    # memory by what it is for; only config.json is read
"""

import importlib.metadata
from dataclasses import dataclass
from typing import Any

import torch

from .. import __version__
from ..core.checkpoint import find_checkpoint
from ..core.device import pick_device
from ..core.errors import require
from ..core.memory import available_memory
from ..core.protocols import Precision
from ..generation.generator import VideoGenerator
from ..generation.memory_plan import MemoryPlan, fit_memory, plan_memory, show_bytes
from ..generation.pretrained import read_config
from ..generation.request import DEFAULT_SECONDS
from .presets import preset_config, preset_plan


class ModelInfo(dict[str, Any]):
    """Sizes, settings and versions by name; printed as a table."""

    def __str__(self) -> str:
        return "\n".join(f"{name.replace('_', ' '):22}{value}" for name, value in self.items())


@dataclass(frozen=True)
class ClipPlan:
    """What clips of a model will take; printed as a table.

    Attributes:
        model: its name.
        plan: bytes by what they are for.
        available: bytes that are free on the device, None where the system does not say.
        most_clips: of this length that fit at once, None where that is not known.
    """

    model: str
    plan: MemoryPlan
    available: int | None
    most_clips: int | None

    def values(self) -> dict[str, Any]:
        """All figures, as JSON values."""
        return {
            "model": self.model, **self.plan.values(), "available": self.available, "most_clips": self.most_clips
        }  # fmt: skip

    def __str__(self) -> str:
        available = "unknown" if self.available is None else show_bytes(self.available)
        last = {"available": available, "most clips": self.most_clips}
        return "\n".join([
            f"{'model':22}{self.model}", str(self.plan), *(f"{name:22}{value}" for name, value in last.items())
        ])  # fmt: skip


def describe_model(
    model: str = "world", *, device: str = "auto", dtype: str = "auto", weights: Precision = "full",
    cache: Precision = "full",
) -> ModelInfo:  # fmt: skip
    """Load a model and describe it.

    Args:
        model: a bundled model's name, a checkpoint folder, or a hub id.
        device, dtype, weights, cache: as for `VideoGenerator.from_pretrained`.

    Returns:
        Its sizes, its default settings, bytes_on_disk, and the versions, device and dtype that it runs with here.

    Raises:
        CheckpointError: the model cannot be loaded.
    """
    options: dict[str, Any] = {"device": device, "dtype": dtype, "weights": weights, "cache": cache}
    parts, folder = VideoGenerator.from_pretrained(model, **options).parts, find_checkpoint(model)
    numerics, place = parts.lm.numerics, parts.lm.device
    found_triton = importlib.metadata.distributions(name="triton")
    return ModelInfo(
        {"model": parts.name, **parts.sizes(), **vars(parts.config.sampling)},
        bytes_on_disk=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        reelm=__version__,
        torch=torch.__version__,
        triton=next((found.version for found in found_triton), "not installed"),
        device=torch.cuda.get_device_name(place) if place.type == "cuda" else str(place),
        threads=torch.get_num_threads(),
        dtype=str(numerics.dtype).removeprefix("torch."),
        **numerics.precisions,
    )


def plan_clips(
    model: str = "world", *, preset: str | None = None, seconds: float | None = None, batch: int | None = None,
    device: str = "auto", dtype: str = "auto", weights: Precision = "full", cache: Precision = "full",
) -> ClipPlan:  # fmt: skip
    """Plan the memory that clips will take, and how many fit here. Of a model only config.json is read.

    Args:
        model: a bundled model's name, a checkpoint folder, or a hub id.
        preset: plan this preset (cosmos-4b or emu3-8b) in place of a model.
        seconds: length of a clip, 2 by default.
        batch: clips at once, 1 by default.
        device, dtype, weights, cache: as for `VideoGenerator.from_pretrained`.

    Raises:
        ReelmError: an argument is out of its range, or both a model and a preset are given.
        CheckpointError: the config cannot be read.
    """
    require(preset is None or model == "world", "preset", "must not be given with a model", model)
    place = pick_device(device)
    options: dict[str, Any] = {"device": place.type, "dtype": dtype, "weights": weights, "cache": cache}
    given: dict[str, Any] = {
        "seconds": DEFAULT_SECONDS if seconds is None else seconds,
        "batch": 1 if batch is None else batch,
    }
    if preset is None:
        config = read_config(find_checkpoint(model))
        plan = plan_memory(config, **options, **given)
    else:
        config, plan = preset_config(preset), preset_plan(preset, **options, **given)
    free = available_memory(place)
    largest = None if free is None else fit_memory(config, free, seconds=plan.seconds, **options)
    most = None if free is None else 0 if largest is None else largest.batch
    return ClipPlan(preset or model, plan, free, most)
