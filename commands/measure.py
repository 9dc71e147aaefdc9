"""The commands that measure a machine and a model's sizes: bench, bench kernels, info."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..core.errors import require
from ..core.files import check_writable
from .base import Command, ModelCommand, strict_json

if TYPE_CHECKING:
    from ..generation.generator import VideoGenerator


@dataclass(frozen=True, kw_only=True)
class Bench(ModelCommand):
    """Measure sampling speed on this machine; the last line is the same as one JSON document.

    Attributes:
        preset: random weights of this size (cosmos-4b or emu3-8b) in place of a model; no pixels are decoded.
        seconds: length of a clip.
        batch: clips at once, 1 by default; with --sweep batch the largest, 8 by default.
        guidance_scale: the model's own unless given; 1 is off.
        temperature: the model's own unless given.
        repeats: counted rounds; figures are their medians.
        decoder: of the default row: auto, sequential, jacobi or diagonal.
        block_size: tokens that jacobi looks at in a pass.
        prompt: of all clips.
        peers: give torch.compile and transformers rows too, where they are there.
        sweep: depth (along a clip) or batch: measure the default way there, in place of the rows.
        check: tiny sizes and one round: whether it runs, not how fast.
        plot: draw the rows or the sweep into this .png (needs matplotlib).
    """

    example = "reelm bench --seconds 2 --batch 1 --repeats 3"
    preset: str | None = None
    seconds: float = 2.0
    batch: int | None = None
    guidance_scale: float | None = None
    temperature: float | None = None
    repeats: int = 3
    decoder: str = "auto"
    block_size: int | None = None
    prompt: str = ""
    peers: bool = True
    sweep: str | None = None
    check: bool = False
    plot: Path | None = None

    def run(self) -> int:
        from ..bench.sampling import benchmark

        if self.plot is not None:
            path = check_writable(self.plot, "plot")
            require(path.suffix.lower() == ".png", "plot", "must end in .png", str(path))
        report = benchmark(
            self._generator(), seconds=self.seconds, batch=self.batch, guidance_scale=self.guidance_scale,
            temperature=self.temperature, repeats=self.repeats, decoder=self.decoder, block_size=self.block_size,
            prompt=self.prompt, peers=self.peers, sweep=self.sweep, check=self.check,
        )  # fmt: skip
        print(*([] if self.json else [report]), strict_json(report), sep="\n")
        if self.plot is not None:
            report.plot(self.plot)
        return 0 if all(row.get("ok", True) for row in report.get("rows", [])) else 1

    def _generator(self) -> "VideoGenerator":
        """The model, or the preset."""
        from ..bench.presets import preset_parts
        from ..generation.generator import VideoGenerator

        if self.preset is None:
            return self.load()
        require(self.model == "world", "preset", "must not be given with a model", self.model)
        self.set_threads()
        return VideoGenerator(preset_parts(self.preset, device=self.device, **self.kinds, check=self.check))


@dataclass(frozen=True, kw_only=True)
class BenchKernels(Command):
    """Measure the kernels against torch's own on this GPU; the last line is one JSON document.

    Attributes:
        check: run every row once at tiny sizes and compare the results; times nothing and needs no GPU.
        rounds: how often the rows of a case take turns.
        only: the one op to measure.
    """

    example = "reelm bench kernels --only attention"
    check: bool = False
    rounds: int = 7
    only: str | None = None

    def run(self) -> int:
        from ..bench.kernel_cases import all_cases
        from ..bench.kernel_report import benchmark_kernels, table

        document = benchmark_kernels(all_cases(self.check, self.only), check=self.check, rounds=self.rounds)
        print(table(document), strict_json(document), sep="\n")
        ours = [row for row in document["rows"] if row["row"] == "reelm"]
        return 0 if all(row["ok"] for row in ours) else 1


@dataclass(frozen=True, kw_only=True)
class Info(ModelCommand):
    """Tell a model's sizes and default settings, and the versions it runs on here; or what memory its clips will take.

    Attributes:
        plan: tell the memory that clips will take, and how many fit here; only config.json is read.
        preset: plan this preset (cosmos-4b or emu3-8b) in place of a model.
        seconds: length of a planned clip, 2 by default.
        batch: planned clips at once, 1 by default.
    """

    example = "reelm info --model world --plan --seconds 20 --batch 16"
    plan: bool = False
    preset: str | None = None
    seconds: float | None = None
    batch: int | None = None

    def run(self) -> int:
        given = {name: getattr(self, name) for name in ("seconds", "batch") if getattr(self, name) is not None}
        alone = given if self.preset is None else {"preset": self.preset, **given}
        require(self.plan or not alone, ", ".join(alone), "must be given with --plan only", alone)
        values, table = self._plan(given) if self.plan else self._sizes()
        print(strict_json(values) if self.json else table)
        return 0

    def _plan(self, given: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """What clips will take, what is there, and how many fit: in bytes, and as a table."""
        from ..bench.presets import preset_config, preset_plan
        from ..core.checkpoint import find_checkpoint
        from ..core.device import pick_device
        from ..core.memory import available_memory
        from ..generation.memory_plan import fit_memory, plan_memory, show_bytes
        from ..generation.pretrained import read_config

        place, model = pick_device(self.device), self.preset or self.model
        options: dict[str, Any] = {"device": place.type, **self.kinds}
        if self.preset is None:
            config = read_config(find_checkpoint(model))
            plan = plan_memory(config, **options, **given)
        else:
            require(self.model == "world", "preset", "must not be given with a model", self.model)
            config, plan = preset_config(self.preset), preset_plan(self.preset, **options, **given)
        free = available_memory(place)
        largest = None if free is None else fit_memory(config, free, seconds=plan.seconds, **options)
        most = None if free is None else 0 if largest is None else largest.batch
        words = {"available": "unknown" if free is None else show_bytes(free), "most clips": most}
        table = "\n".join([f"{'model':22}{model}", str(plan), *(f"{k:22}{v}" for k, v in words.items())])
        return {"model": model, **plan.values(), "available": free, "most_clips": most}, table

    def _sizes(self) -> tuple[dict[str, Any], str]:
        """The sizes, settings and versions: as values, and as a table."""
        import torch

        from ..core.checkpoint import find_checkpoint

        parts, folder = self.load().parts, find_checkpoint(self.model)
        numerics, place = parts.lm.numerics, parts.lm.device
        found_triton = importlib.metadata.distributions(name="triton")
        values = {
            "model": parts.name,
            **parts.sizes(),
            **vars(parts.config.sampling),
            "bytes_on_disk": sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
            "reelm": __version__,
            "torch": torch.__version__,
            "triton": next((found.version for found in found_triton), "not installed"),
            "device": torch.cuda.get_device_name(place) if place.type == "cuda" else str(place),
            "threads": torch.get_num_threads(),
            "dtype": str(numerics.dtype).removeprefix("torch."),
            **numerics.precisions,
        }
        return values, "\n".join(f"{name.replace('_', ' '):22}{value}" for name, value in values.items())
