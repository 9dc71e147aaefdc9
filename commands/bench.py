"""The commands that measure speed on this machine: bench, bench blocks, tokenizer, startup and kernels."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..core.errors import require
from .base import Command, ModelCommand, print_report

if TYPE_CHECKING:
    from ..generation.generator import VideoGenerator


# The options of a comparison of two builds, and those that all measurements of sampling have.
COMPARING = {"against", "threads", "clip", "training"}
SHARED = {"model", "device", "seconds", "batch", "prompt", "repeats", "check", "json"}


@dataclass(frozen=True, kw_only=True)
class Bench(ModelCommand):
    """Measure the sampling speed of a model on this machine; the last line is the report as one JSON document.

    With --against, another build of reelm and this one draw the same clips by turns, in processes of their own.

    Attributes:
        against: The other build: the folder of a checkout, or a Python interpreter or virtual environment with reelm.
        threads: With --against, the number of threads of each build.
        clip: With --against, a clip file whose reading is compared, in place of sampling.
        training: With --against, the words after "reelm train" of a training whose steps are compared, in place of
            sampling.
        preset: A model of this size with random weights (cosmos-4b, emu3-8b or llama-27m), in place of --model; no
            pixels are decoded.
        seconds: The length of a clip in seconds.
        batch: The number of clips at once, 1 by default; with --sweep batch the largest, 8 by default; with --against
            that of its batch, 8 by default.
        guidance_scale: The guidance scale, the model's own unless given; 1 turns guidance off.
        guidance: The method of guidance, the model's own unless given: two-row by its definition, auto in one row where
            the model has learnt the scale.
        temperature: The sampling temperature, the model's own unless given.
        repeats: The number of measured rounds; figures are their medians.
        decoder: The decoder of the default row: auto, sequential, jacobi or diagonal.
        block_size: The number of positions that jacobi computes in a pass.
        prompt: The prompt of all clips.
        baselines: Measure torch.compile and transformers too, where they are installed.
        sweep: The variable of a sweep, depth (along a clip) or batch; only the default row is measured then.
        check: Use tiny sizes and one round, to test whether everything runs, not how fast.
        plot: The .png file for a plot of the rows or of the sweep (needs matplotlib).
    """

    example = "reelm bench --seconds 2 --batch 1 --repeats 3"
    against: Path | None = None
    threads: int = 1
    clip: Path | None = None
    training: str | None = None
    preset: str | None = None
    seconds: float = 2.0
    batch: int | None = None
    guidance_scale: float | None = None
    guidance: Literal["auto", "two-row"] | None = None
    temperature: float | None = None
    repeats: int = 3
    decoder: str = "auto"
    block_size: int | None = None
    prompt: str = ""
    baselines: bool = True
    sweep: str | None = None
    check: bool = False
    plot: Path | None = None

    def run(self) -> int:
        from ..bench.report import check_plot
        from ..bench.sampling import benchmark

        self._check_options()
        if self.against is not None:
            return self._compare(self.against)
        if self.plot is not None:
            check_plot(self.plot)
        report = benchmark(
            self._generator(), seconds=self.seconds, batch=self.batch, guidance_scale=self.guidance_scale,
            guidance=self.guidance, temperature=self.temperature, repeats=self.repeats, decoder=self.decoder,
            block_size=self.block_size, prompt=self.prompt, baselines=self.baselines, sweep=self.sweep,
            check=self.check,
        )  # fmt: skip
        print_report(report, json_alone=self.json)
        if self.plot is not None:
            report.plot(self.plot)
        return 0 if report.ok else 1

    def _compare(self, against: Path) -> int:
        """Compare this build with another one."""
        from ..bench.builds import compare_builds

        report = compare_builds(
            against, model=self.model, seconds=self.seconds, batch=self.batch, prompt=self.prompt, clip=self.clip,
            training=self.training, threads=self.threads, repeats=self.repeats, device=self.device, check=self.check,
        )  # fmt: skip
        print_report(report, json_alone=self.json)
        return 0

    def _check_options(self) -> None:
        """Refuse options of the comparison without it, and with it those of one build."""
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if value != field.default and self.against is None:
                require(name not in COMPARING, name, "must be given with --against, or not at all", value)
            elif value != field.default:
                require(name in COMPARING | SHARED, name, "must not be given with --against", value)

    def _generator(self) -> "VideoGenerator":
        """Load the model, or make the preset."""
        from ..bench.presets import preset_generator

        if self.preset is None:
            return self.load()
        require(self.model == "world", "preset", "must not be given with a model", self.model)
        self.set_threads()
        return preset_generator(self.preset, device=self.device, **self.numerics, check=self.check)


@dataclass(frozen=True, kw_only=True)
class BenchTokenizer(Command):
    """Measure a tokenizer's speed, compared with the networks of Cosmos; the last line is one JSON document.

    Attributes:
        preset: The size of a tokenizer with random weights: tiny, small or base.
        compression: The pixels per token of the preset, frames x rows x columns: 4x8x8, 8x8x8, 4x16x16 or 8x16x16.
        tokenizer: The folder of a trained tokenizer, in place of a preset.
        num_frames: The number of frames of a clip, 1 + a multiple of the frames per token.
        height: The height of a clip in pixels.
        width: The width of a clip in pixels.
        batch: The number of clips at once.
        repeats: The number of measured rounds, each of which runs every network once; figures are their medians.
        device: The device to compute on: auto, cpu or cuda[:n].
        dtype: The dtype of both networks: auto, float32, bfloat16 or float16.
        baselines: Measure the networks of Cosmos too.
        check: Use a tiny clip and one round, to test whether everything runs, not how fast.
        json: Print one JSON document and nothing else.
    """

    example = "reelm bench tokenizer --preset base --compression 4x8x8"
    preset: str = "base"
    compression: str = "4x8x8"
    tokenizer: Path | None = None
    num_frames: int = 17
    height: int = 128
    width: int = 128
    batch: int = 1
    repeats: int = 5
    device: str = "auto"
    dtype: str = "auto"
    baselines: bool = True
    check: bool = False
    json: bool = False

    def run(self) -> int:
        from ..bench.codec import measure_tokenizer

        report = measure_tokenizer(
            preset=self.preset, compression=self.compression, tokenizer=self.tokenizer, num_frames=self.num_frames,
            height=self.height, width=self.width, batch=self.batch, repeats=self.repeats, device=self.device,
            dtype=self.dtype, baselines=self.baselines, check=self.check,
        )  # fmt: skip
        print_report(report, json_alone=self.json)
        return 0


@dataclass(frozen=True, kw_only=True)
class BenchBlocks(ModelCommand):
    """Find the fastest block sizes of a model on this machine, and keep them for later calls; the last line is JSON.

    Attributes:
        clips: The numbers of clips at a time.
        seconds: The length of a clip in seconds.
        prompt: The prompt of all clips; a usual one unless given.
        repeats: The number of rounds after a first one, which leaves out what is far from the best.
        keep: Write the best sizes into the cache folder, from which later calls choose them.
        check: Run one round of clips of one frame and keep nothing, to test whether everything runs.
    """

    example = "reelm bench blocks --clips 1 8"
    clips: tuple[int, ...] = (1, 2, 4, 8)
    seconds: float = 2.0
    prompt: str | None = None
    repeats: int = 5
    keep: bool = True
    check: bool = False

    def run(self) -> int:
        from ..bench.block_speeds import measure_blocks

        report = measure_blocks(
            self.load(), clips=self.clips, seconds=self.seconds, prompt=self.prompt, repeats=self.repeats,
            keep=self.keep, check=self.check,
        )  # fmt: skip
        print_report(report, json_alone=self.json)
        return 0


@dataclass(frozen=True, kw_only=True)
class BenchStartup(Command):
    """Measure the processor time of a clip from a shell, compared with `import torch`; the last line is JSON.

    Attributes:
        model: The model: a bundled name, a folder or a hub id.
        seconds: The length of the clip in seconds.
        prompt: The prompt of the clip.
        repeats: The number of measured rounds, each of which runs every process once; figures are their medians.
        check: Run one round and a clip of one frame, to test whether everything runs, not how fast.
        json: Print one JSON document and nothing else.
    """

    example = "reelm bench startup --repeats 7"
    model: str = "world"
    seconds: float = 2.0
    prompt: str = "a red ball rolls to the right over grass"
    repeats: int = 5
    check: bool = False
    json: bool = False

    def run(self) -> int:
        from ..bench.startup import measure_startup

        report = measure_startup(
            model=self.model, seconds=self.seconds, prompt=self.prompt, repeats=self.repeats, check=self.check
        )
        print_report(report, json_alone=self.json)
        return 0


@dataclass(frozen=True, kw_only=True)
class BenchKernels(Command):
    """Measure the kernels on this GPU, compared with torch's implementations; the last line is one JSON document.

    Attributes:
        check: Run every row once at tiny sizes and compare the results, without times; this needs no GPU.
        rounds: The number of rounds, each of which measures every row of a case once.
        only: The one op to measure; all ops unless given.
    """

    example = "reelm bench kernels --only attention"
    check: bool = False
    rounds: int = 7
    only: str | None = None

    def run(self) -> int:
        from ..bench.kernel_cases import measure_kernels

        report = measure_kernels(check=self.check, rounds=self.rounds, only=self.only)
        print_report(report)
        return 0 if report.ok else 1
