"""The commands that measure: bench, bench kernels, evaluate, info."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.errors import require
from ..core.files import check_writable
from .base import Command, ModelCommand, strict_json


@dataclass(frozen=True, kw_only=True)
class Bench(ModelCommand):
    """Measure sampling speed on this machine; the last line is the same as one JSON document.

    Attributes:
        seconds: length of a clip.
        batch: clips at once.
        guidance_scale: the model's own unless given; 1 is off.
        temperature: the model's own unless given.
        repeats: counted rounds; figures are their medians.
        decoder: of the default row: sequential, jacobi or auto.
        block_size: tokens that jacobi looks at in a pass.
        prompt: of all clips.
        peers: give transformers rows too, where it is installed.
        check: tiny sizes and one round: whether it runs, not how fast.
        plot: draw the rows into this .png (needs matplotlib).
    """

    example = "reelm bench --seconds 2 --batch 1 --repeats 3"
    seconds: float = 2.0
    batch: int = 1
    guidance_scale: float | None = None
    temperature: float | None = None
    repeats: int = 3
    decoder: str = "auto"
    block_size: int | None = None
    prompt: str = ""
    peers: bool = True
    check: bool = False
    plot: Path | None = None

    def run(self) -> int:
        if self.plot is not None:
            path = check_writable(self.plot, "plot")
            require(path.suffix.lower() == ".png", "plot", "must end in .png", str(path))
        generator = self.load()
        report = generator.benchmark(
            seconds=self.seconds, batch=self.batch, guidance_scale=self.guidance_scale, temperature=self.temperature,
            repeats=self.repeats, decoder=self.decoder, block_size=self.block_size, prompt=self.prompt,
            peers=self.peers, check=self.check,
        )  # fmt: skip
        print(*([] if self.json else [report]), strict_json(report), sep="\n")
        if self.plot is not None:
            report.plot(self.plot)
        return 0


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
        from ..kernels.benchmark import benchmark_kernels, table
        from ..kernels.benchmark_cases import all_cases

        document = benchmark_kernels(all_cases(self.check, self.only), check=self.check, rounds=self.rounds)
        print(table(document), strict_json(document), sep="\n")
        ours = [row for row in document["rows"] if row["row"] == "reelm"]
        return 0 if all(row["ok"] for row in ours) else 1


@dataclass(frozen=True, kw_only=True)
class Evaluate(ModelCommand):
    """Judge a model's clips of held-out captions, and its tokenizer; the last line is one JSON document.

    Attributes:
        prompts: held-out captions of one object.
        two_objects: held-out captions of two objects; 0 leaves them out.
        clips: held-out rendered clips for the tokenizer.
        seed: of the captions, the clips and the sampling.
        batch: clips sampled at once.
        guidance_scale: the model's own unless given; 1 is off.
        decoder: sequential, jacobi or auto.
        block_size: tokens that jacobi looks at in a pass.
        contact_sheet: a PNG to write, with the first generated clips.
    """

    one_thread = False  # batches are large
    example = "reelm evaluate --prompts 256 --contact-sheet sheet.png"
    prompts: int = 256
    two_objects: int = 128
    clips: int = 256
    seed: int = 1234
    batch: int = 16
    guidance_scale: float | None = None
    decoder: str = "auto"
    block_size: int | None = None
    contact_sheet: Path | None = None

    def run(self) -> int:
        from ..sampling.evaluate import evaluate_model

        if self.contact_sheet is not None:
            path = check_writable(self.contact_sheet, "contact_sheet")
            require(path.suffix.lower() == ".png", "contact_sheet", "must end in .png", str(path))
        report = evaluate_model(
            self.load(), prompts=self.prompts, two_objects=self.two_objects, clips=self.clips, seed=self.seed,
            batch=self.batch, guidance_scale=self.guidance_scale, decoder=self.decoder, block_size=self.block_size,
            contact_sheet=self.contact_sheet,
        )  # fmt: skip
        print(*([] if self.json else [report]), strict_json(report), sep="\n")
        return 0


@dataclass(frozen=True, kw_only=True)
class Info(ModelCommand):
    """Tell a model's sizes and default settings, and the versions it runs on here; or what memory its clips will take.

    Attributes:
        plan: tell the memory that clips will take, and how many fit here; only config.json is read.
        seconds: length of a planned clip, 2 by default.
        batch: planned clips at once, 1 by default.
    """

    example = "reelm info --model world --plan --seconds 20 --batch 16"
    plan: bool = False
    seconds: float | None = None
    batch: int | None = None

    def run(self) -> int:
        given = {name: getattr(self, name) for name in ("seconds", "batch") if getattr(self, name) is not None}
        require(self.plan or not given, ", ".join(given), "must be given with --plan only", given)
        values, table = self._plan(given) if self.plan else self._sizes()
        print(strict_json(values) if self.json else table)
        return 0

    def _plan(self, given: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """What clips will take, what is there, and how many fit: in bytes, and as a table."""
        from ..core.checkpoint import find_checkpoint
        from ..core.device import pick_device
        from ..sampling.machine import available_memory
        from ..sampling.memory import fit_memory, plan_memory, show_bytes
        from ..sampling.pretrained import read_config

        place = pick_device(self.device)
        config = read_config(find_checkpoint(self.model))
        options: dict[str, Any] = {"device": place.type, "dtype": self.dtype}
        plan, free = plan_memory(config, **options, **given), available_memory(place)
        largest = None if free is None else fit_memory(config, free, seconds=plan.seconds, **options)
        most = None if free is None else 0 if largest is None else largest.batch
        words = {"available": "unknown" if free is None else show_bytes(free), "most clips": most}
        table = "\n".join([f"{'model':22}{self.model}", str(plan), *(f"{k:22}{v}" for k, v in words.items())])
        return {"model": self.model, **plan.values(), "available": free, "most_clips": most}, table

    def _sizes(self) -> tuple[dict[str, Any], str]:
        """The sizes, settings and versions: as values, and as a table."""
        import torch

        from ..core.checkpoint import find_checkpoint

        parts, folder = self.load().parts, find_checkpoint(self.model)
        weight = next(parts.lm.parameters())
        found_triton = importlib.metadata.distributions(name="triton")
        values = {
            "model": parts.name,
            **parts.sizes(),
            **vars(parts.config.sampling),
            "bytes_on_disk": sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
            "reelm": __version__,
            "torch": torch.__version__,
            "triton": next((found.version for found in found_triton), "not installed"),
            "device": torch.cuda.get_device_name(weight.device) if weight.is_cuda else str(weight.device),
            "threads": torch.get_num_threads(),
            "dtype": str(weight.dtype).removeprefix("torch."),
        }
        return values, "\n".join(f"{name.replace('_', ' '):22}{value}" for name, value in values.items())
