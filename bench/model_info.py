"""Describe a model, and plan the memory of its clips without generating any, as `reelm info` does.

print(describe_model("world"))                      # sizes, settings, versions
print(*list_words("world"))                         # the words that it knows
print(plan_clips("world", seconds=20, batch=16))    # memory by purpose; .values() is JSON; only config.json is read
"""

import importlib.metadata
from dataclasses import dataclass

import torch

from .. import __version__
from ..core.checkpoint import find_checkpoint
from ..core.device import pick_device
from ..core.errors import require
from ..core.json_values import Json, JsonValue
from ..core.memory import available_memory
from ..core.protocols import Precision
from ..generation.generator import VideoGenerator
from ..generation.memory_plan import MemoryPlan, PlanOptions, fit_memory, plan_memory, show_bytes
from ..generation.pretrained import read_config
from ..generation.request import DEFAULT_SECONDS
from .presets import preset_config, preset_plan


class ModelInfo(dict[str, JsonValue]):
    """The sizes, settings and versions of a model by name; printed as a table."""

    def __str__(self) -> str:
        return "\n".join(f"{name.replace('_', ' '):22}{value}" for name, value in self.items())


@dataclass(frozen=True)
class ClipPlan:
    """The memory that clips of a model need; printed as a table.

    Attributes:
        model: The name of the model.
        plan: The bytes by purpose.
        available: The bytes that are free on the device, or None where the system does not report them.
        most_clips: The largest number of clips of this length that fit at once, or None where that is unknown.
    """

    model: str
    plan: MemoryPlan
    available: int | None
    most_clips: int | None

    def values(self) -> Json:
        """Return all figures as JSON values."""
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
    model: str = "world", *, device: str = "auto", dtype: str | torch.dtype = "auto", weights: Precision = "full",
    cache: Precision = "full",
) -> ModelInfo:  # fmt: skip
    """Load a model and describe it.

    Args:
        model: The name of a bundled model, a checkpoint folder, or a hub id.
        device, dtype, weights, cache: The arguments of `VideoGenerator.from_pretrained`.

    Returns:
        The sizes of the model, its default settings, bytes_on_disk, and the versions, device and dtype that it runs
        with on this machine.

    Raises:
        CheckpointError: The model cannot be loaded.
    """
    generator = VideoGenerator.from_pretrained(model, device=device, dtype=dtype, weights=weights, cache=cache)
    parts, folder = generator.parts, find_checkpoint(model)
    numerics, target = parts.lm.numerics, parts.lm.device
    triton = next((found.version for found in importlib.metadata.distributions(name="triton")), "not installed")
    return ModelInfo(
        {"model": parts.name, **parts.sizes(), **vars(parts.config.sampling)},
        bytes_on_disk=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        reelm=__version__,
        torch=torch.__version__,
        triton=triton,
        device=torch.cuda.get_device_name(target) if target.type == "cuda" else str(target),
        threads=torch.get_num_threads(),
        dtype=str(numerics.dtype).removeprefix("torch."),
        **numerics.precisions,
    )


def list_words(
    model: str = "world", *, device: str = "auto", dtype: str | torch.dtype = "auto", weights: Precision = "full",
    cache: Precision = "full",
) -> list[str]:  # fmt: skip
    """Load a model and return the words that it knows, sorted; none where it spells new words from pieces.

    Args:
        model: The name of a bundled model, a checkpoint folder, or a hub id.
        device, dtype, weights, cache: The arguments of `VideoGenerator.from_pretrained`.

    Raises:
        CheckpointError: The model cannot be loaded.
    """
    generator = VideoGenerator.from_pretrained(model, device=device, dtype=dtype, weights=weights, cache=cache)
    return list(generator.parts.lm.known_words)


def plan_clips(
    model: str = "world", *, preset: str | None = None, seconds: float | None = None, batch: int | None = None,
    device: str = "auto", dtype: str | torch.dtype = "auto", weights: Precision = "full", cache: Precision = "full",
) -> ClipPlan:  # fmt: skip
    """Plan the memory that clips need, and how many clips fit on this machine; only config.json is read.

    Args:
        model: The name of a bundled model, a checkpoint folder, or a hub id.
        preset: The preset to plan for (cosmos-4b, emu3-8b or llama-27m), in place of a model.
        seconds: The length of a clip in seconds, 2 by default.
        batch: The number of clips at once, 1 by default.
        device, dtype, weights, cache: The arguments of `VideoGenerator.from_pretrained`.

    Raises:
        ReelmError: An argument is out of its range, or both a model and a preset are given.
        CheckpointError: The config cannot be read.
    """
    require(preset is None or model == "world", "preset", "must not be given with a model", model)
    target = pick_device(device)
    options: PlanOptions = {
        "seconds": DEFAULT_SECONDS if seconds is None else seconds, "device": target.type, "dtype": dtype,
        "weights": weights, "cache": cache,
    }  # fmt: skip
    count = 1 if batch is None else batch
    if preset is None:
        config = read_config(find_checkpoint(model))
        plan = plan_memory(config, batch=count, **options)
    else:
        config, plan = preset_config(preset), preset_plan(preset, batch=count, **options)
    free = available_memory(target)
    largest = None if free is None else fit_memory(config, free, **options)
    most = None if free is None else 0 if largest is None else largest.batch
    return ClipPlan(preset or model, plan, free, most)
