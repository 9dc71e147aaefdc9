"""The commands that measure a machine: bench, bench tokenizer, bench kernels."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import require
from .base import Command, ModelCommand, print_report

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
        baselines: give torch.compile and transformers rows too, where they are there.
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
    baselines: bool = True
    sweep: str | None = None
    check: bool = False
    plot: Path | None = None

    def run(self) -> int:
        from ..bench.report import check_plot
        from ..bench.sampling import benchmark

        if self.plot is not None:
            check_plot(self.plot)
        report = benchmark(
            self._generator(), seconds=self.seconds, batch=self.batch, guidance_scale=self.guidance_scale,
            temperature=self.temperature, repeats=self.repeats, decoder=self.decoder, block_size=self.block_size,
            prompt=self.prompt, baselines=self.baselines, sweep=self.sweep, check=self.check,
        )  # fmt: skip
        print_report(report, json_alone=self.json)
        if self.plot is not None:
            report.plot(self.plot)
        return 0 if report.ok else 1

    def _generator(self) -> "VideoGenerator":
        """The model, or the preset."""
        from ..bench.presets import preset_generator

        if self.preset is None:
            return self.load()
        require(self.model == "world", "preset", "must not be given with a model", self.model)
        self.set_threads()
        return preset_generator(self.preset, device=self.device, **self.kinds, check=self.check)


@dataclass(frozen=True, kw_only=True)
class BenchTokenizer(Command):
    """Measure a tokenizer's speed beside a network of the shape of NVIDIA's Cosmos; the last line is one JSON document.

    Attributes:
        preset: random weights of this size: tiny, small or base.
        compression: frames x rows x columns of a token of the preset: 4x8x8, 8x8x8, 4x16x16 or 8x16x16.
        tokenizer: the folder of a tokenizer's training, in place of a preset.
        num_frames: of a clip, 1 + a multiple of a token's frames.
        height: rows of pixels.
        width: columns of pixels.
        batch: clips at once.
        repeats: counted rounds, in which the networks take turns; figures are their medians.
        device: auto, cpu or cuda[:n].
        dtype: auto, float32, bfloat16 or float16, of both networks.
        baselines: give the network of the shape of Cosmos a row too.
        check: a tiny clip and one round: whether it runs, not how fast.
        json: print one JSON document and nothing else.
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
        from ..bench.kernel_cases import measure_kernels

        report = measure_kernels(check=self.check, rounds=self.rounds, only=self.only)
        print_report(report)
        return 0 if report.ok else 1
