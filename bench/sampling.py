"""Benchmark the sampling speed of a model on this machine: each decoder, torch.compile, and transformers if installed.

    report = benchmark(generator, seconds=2.0, batch=1)
    print(report)                       # tables; report["tokens_per_second"], json.dumps(report)
    benchmark(generator, sweep="depth")  # sweep.py

The rows are measured alternately, in rounds, after one warm-up round that is not counted; figures are medians over the
rounds. The tokens of each reelm row are compared with those of `sequential`, and its logits with those of one masked
pass in plain torch; a wrong row prints FAIL and no speed. The figures of the default row, at the top, are of whole
clips, sampled and decoded to pixels (presets have random weights and decode none). A clip of 30 seconds or more is
drawn in the default variant only, without a warm-up, and shows whether time and memory stay constant: its seconds 10 to
20 are compared with its last 10 seconds, or for a clip of three minutes or more its second minute with its last.
"""

import dataclasses
import math
import statistics
from typing import Any, TypedDict, Unpack

import torch

from ..core.condition import GuidanceMethod
from ..core.errors import require
from ..core.memory import memory_bytes, peak_memory_bytes
from ..core.plain_values import to_python
from ..core.progress import progress
from ..generation.admission import admit
from ..generation.generator import VideoGenerator
from ..generation.memory_plan import MemoryPlan
from ..generation.pretrained import Pretrained
from ..generation.request import Request, check_lengths, pick_decoder
from ..sampling.decoders import Jacobi
from ..sampling.plan import ClipPlan, NoiseKey
from .report import BenchmarkReport, describe
from .runs import ClipRun, interval_frames, run_clips
from .sweep import SWEEPS, run_sweep
from .transformers_baseline import hugging_face_rows
from .variants import DEFAULT, SEQUENTIAL, Variant, default_variant, logits_difference, own_variants

LONG_CLIP_FROM = 30.0  # seconds
# The largest difference of logits that rounding explains, as a share of the largest logit, by dtype.
LOGITS_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
# In int8 a rounding error can become a whole quantization step: the bundled model's logits differed by up to 0.02.
INT8_LOGITS_TOLERANCE = 5e-2


class SamplingChanges(TypedDict, total=False):
    """The sampling settings that `benchmark` can change.

    Attributes:
        guidance_scale: The guidance scale; 1 turns guidance off.
        guidance: The method of guidance, as for `generate`.
        temperature: The temperature.
    """

    guidance_scale: float | None
    guidance: GuidanceMethod | None
    temperature: float | None


def benchmark(
    generator: VideoGenerator,
    *,
    seconds: float = 2.0,
    batch: int | None = None,
    repeats: int = 3,
    decoder: str = "auto",
    block_size: int | None = None,
    prompt: str = "",
    baselines: bool = True,
    sweep: str | None = None,
    check: bool = False,
    **changes: Unpack[SamplingChanges],
) -> BenchmarkReport:
    """Sample a batch of clips with each variant, once to warm up and then in `repeats` measured rounds.

    Args:
        generator: The generator of the model.
        seconds: The length of a clip in seconds; for a preset one or two latent frames are enough.
        batch: The number of clips at once, 1 by default; for a sweep over batches the largest, 8 by default.
        repeats: The number of measured rounds; figures are their medians.
        decoder, block_size: The decoder of the default row, as for `generate`.
        prompt: The prompt of all clips.
        baselines: Whether to measure the model's step compiled by torch, and transformers, where they can run.
        sweep: "depth" or "batch", to measure only the default variant, along a clip or over batch sizes.
        check: Whether to use tiny sizes for the ceilings, clips of one latent frame and one round, which tests whether
            everything runs, not how fast.
        changes: The sampling settings that differ from the model's own.

    Raises:
        ReelmError: An argument is out of its range, or the clips do not fit into the free memory.
    """
    parts = generator.parts
    numbers: list[Any] = [to_python(number) for number in (batch, repeats, block_size)]
    batch, repeats, block_size = numbers
    (latent_frames,) = check_lengths(parts.config, seconds, None)
    require(batch is None or batch >= 1, "batch", "must be at least 1", batch)
    require(repeats >= 1, "repeats", "must be at least 1", repeats)
    require(sweep is None or sweep in SWEEPS, "sweep", f"must be one of {', '.join(SWEEPS)}", sweep)
    if check:
        latent_frames, repeats = 1, 1
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    sampling = dataclasses.replace(parts.config.sampling, **given)
    if sweep is not None:
        return run_sweep(
            parts, sampling, sweep, latent_frames=latent_frames, batch=batch, repeats=repeats, decoder=decoder,
            block_size=block_size, prompt=prompt, check=check,
        )  # fmt: skip
    batch = batch or 1
    chosen = pick_decoder(parts, decoder, block_size, sampling, batch)
    rounds = [[ClipPlan(prompts=((0, prompt),), key=NoiseKey(n, row)) for row in range(batch)] for n in range(repeats)]
    request = Request(rounds[0], sampling, chosen, batch_size=batch)
    plan = admit(parts, request, whole=False)
    if seconds >= LONG_CLIP_FROM and not check:
        return _long_clip(parts, request, latent_frames, rounds)
    return _compare_variants(parts, request, plan, rounds, latent_frames, baselines=baselines, check=check)


def _compare_variants(
    parts: Pretrained, request: Request, plan: MemoryPlan, rounds: list[list[ClipPlan]], latent_frames: int, *,
    baselines: bool, check: bool,
) -> BenchmarkReport:  # fmt: skip
    """Measure all variants and baselines alternately, and check each variant's tokens and logits."""
    batch, sampling, chosen = len(request.plans), request.sampling, request.decoder
    # This run comes first, before anything else allocates memory, so that the peak is that of the default variant.
    run_clips(parts, default_variant(parts, chosen, sampling), rounds[0], sampling, latent_frames)
    peak = peak_memory_bytes(parts.lm.device)
    report = describe(parts, sampling, chosen, batch, latent_frames=latent_frames, check=check)
    report |= {"peak_memory_bytes": peak, "planned_memory_bytes": plan.runtime + plan.weights + plan.call}
    variants, left_out = own_variants(parts, chosen, sampling, batch, compiled=baselines and not check)
    others, others_left_out = hugging_face_rows(parts, sampling, batch) if baselines else ([], {})
    count = latent_frames * parts.lm.layout.frame_size
    runs: dict[str, list[ClipRun]] = {variant.name: [] for variant in variants}
    times: dict[str, list[float]] = {baseline.name: [] for baseline in others}
    for number, plans in enumerate(progress([rounds[0], *rounds], "benchmark", unit="round")):
        for variant in variants if number else variants[1:]:  # the first variant is already warm
            runs[variant.name] += [run_clips(parts, variant, plans, sampling, latent_frames)][number == 0 :]
        for baseline in others:
            times[baseline.name] += [baseline.run(count)][number == 0 :]
    oracle = SEQUENTIAL if SEQUENTIAL in runs else DEFAULT
    rows = []
    for variant in variants:
        rows.append(_row(parts, report, variant, runs[variant.name], latent_frames))
        rows[-1] |= _check_variant(parts, variant, runs[variant.name], runs[oracle], request)
    for baseline in others:
        per_token = statistics.median(times[baseline.name]) / (batch * count)
        rows.append({
            "row": baseline.name, "tokens_per_second": 1 / per_token, "ms_per_token": per_token * 1e3,
            "note": baseline.note,
        })  # fmt: skip
    base = others[0].name if others else oracle
    rate = next(row["tokens_per_second"] for row in rows if row["row"] == base)
    for row in rows:
        row["ratio"] = row["tokens_per_second"] / rate
    report |= _clip_figures(parts, batch, latent_frames, runs[DEFAULT])
    return BenchmarkReport(report, left_out=left_out | others_left_out, rows=rows)


def _long_clip(
    parts: Pretrained, request: Request, latent_frames: int, rounds: list[list[ClipPlan]]
) -> BenchmarkReport:
    """Measure only the default variant, and compare its time and memory early and late in the clip."""
    batch, device = len(request.plans), parts.lm.device
    variant = default_variant(parts, request.decoder, request.sampling)
    runs = [
        run_clips(parts, variant, plans, request.sampling, latent_frames)
        for plans in progress(rounds, "benchmark", unit="round")
    ]
    peak, late = peak_memory_bytes(device), memory_bytes(device)
    report = describe(parts, request.sampling, request.decoder, batch, latent_frames=latent_frames, check=False)
    report["peak_memory_bytes"] = peak
    row = _row(parts, report, variant, runs, latent_frames)
    row |= _check_variant(parts, variant, runs, runs, request) | {"ratio": 1.0, "mismatching_tokens": None}
    report |= _clip_figures(parts, batch, latent_frames, runs)
    interval = interval_frames(parts, latent_frames)
    return BenchmarkReport(
        report,
        flat_seconds=interval * parts.tokenizer.compression.t / parts.config.fps,
        latent_frame_seconds_early=statistics.median(t for run in runs for t in run.frames[interval : 2 * interval]),
        latent_frame_seconds_late=statistics.median(t for run in runs for t in run.frames[-interval:]),
        memory_bytes_early=runs[-1].memory_early,
        memory_bytes_late=late,
        rows=[row],
    )


def _row(
    parts: Pretrained, report: BenchmarkReport, variant: Variant, runs: list[ClipRun], latent_frames: int
) -> dict[str, Any]:
    """Return the speed figures of a variant; "bandwidth" and "arithmetic" are shares of the measured ceilings."""
    seconds, passes = statistics.median(run.sampling for run in runs), [p for run in runs for p in run.passes]
    p50, decoder, batch = statistics.median(passes), variant.decoder, report["batch"]
    tokens = batch * latent_frames * parts.lm.layout.frame_size
    copy_seconds = report["bytes_per_pass"] / report["copy_gb_s"] / 1e9
    flops = parts.lm.cost(batch * report["rows_per_clip"], getattr(decoder, "block_size", 1)).flops
    product_seconds = flops / report["matmul_gflop_s"] / 1e9
    return {
        "row": variant.name,
        "tokens_per_second": tokens / seconds,
        "ms_per_token": seconds / tokens * 1e3,
        "tokens_per_pass": statistics.mean(run.tokens_per_pass for run in runs),
        "passes": statistics.median(len(run.passes) for run in runs),
        "p50_ms": p50 * 1e3,
        "p95_ms": sorted(passes)[math.ceil(0.95 * (len(passes) - 1))] * 1e3,
        "bandwidth": f"{100 * copy_seconds / p50:.0f}%",
        "arithmetic": f"{100 * product_seconds / p50:.0f}%",
        "note": f"{decoder.name}, {decoder.exactness}"
        + (f", block {decoder.block_size}" if isinstance(decoder, Jacobi) else "")
        + (f", {variant.remark}" if variant.remark else ""),
    }


def _check_variant(
    parts: Pretrained, variant: Variant, runs: list[ClipRun], oracle: list[ClipRun], request: Request
) -> dict[str, Any]:
    """Compare a variant's tokens with those of `sequential` and its logits with a masked pass; judge whether it is ok.

    In float32 a variant that uses the model's own step and claims the tokens of `sequential` must draw exactly these.
    In other dtypes, or with other arithmetic, a token can differ where two scores are closer than rounding, and then
    all later tokens can differ; such tokens are only counted.
    """
    pairs = zip(runs, oracle, strict=True)
    mismatches = sum(int((run.tokens_BtS != expected.tokens_BtS).sum()) for run, expected in pairs)
    difference, largest = logits_difference(parts, variant, request, oracle[0].tokens_BtS[0])
    dtype = parts.lm.numerics.dtype
    int8 = "int8" in parts.lm.numerics.precisions.values()
    tolerance = max(LOGITS_TOLERANCE[dtype], INT8_LOGITS_TOLERANCE if int8 else 0)
    must_match = variant.same_bits and dtype == torch.float32 and variant.decoder.exactness != "approximate"
    return {
        "mismatching_tokens": mismatches,
        "logits_difference": difference,
        "largest_logit": largest,
        "ok": difference <= tolerance * largest and not (must_match and mismatches),
    }


def _clip_figures(parts: Pretrained, batch: int, latent_frames: int, runs: list[ClipRun]) -> dict[str, Any]:
    """Return the figures of the default variant over whole clips, with pixels unless the weights are random."""
    frames, total = parts.tokenizer.compression.frames(latent_frames), statistics.median(run.total for run in runs)
    count = batch * latent_frames * parts.lm.layout.frame_size
    figures = {
        "latent_frames": latent_frames,
        "tokens_per_second": count / statistics.median(run.sampling for run in runs),
        "latent_frame_seconds": statistics.median(t for run in runs for t in run.frames),
    }
    if parts.random:
        return figures | {"pixels": "not decoded: the tokenizer of a preset is random"}
    return figures | {
        "frames": frames,
        "frames_per_second": batch * frames / total,
        "times_realtime": frames / parts.config.fps / total,
        "first_frame_seconds": statistics.median(run.first for run in runs),
        "total_seconds": total,
    }
