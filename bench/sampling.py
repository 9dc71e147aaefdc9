"""The benchmark: how fast this model samples here, by each decoder, beside transformers where that is installed.

    report = benchmark(generator, seconds=2.0, batch=1)
    print(report)                       # tables; report["tokens_per_second"], json.dumps(report)
    benchmark(generator, sweep="depth")  # sweep.py

The rows take turns, after a round that is not counted; figures are medians over the rounds. What a row of ours draws
is compared with what `sequential` draws, token by token, and its logits with those of one masked pass in plain torch: a
row that is wrong prints FAIL and no speed. The figures of the default row, at the top, are of whole clips: sampled, and
decoded to pixels (but for presets, whose weights are random). A clip of half a minute or more is drawn in that way
alone, without a warm-up, and shows whether time and memory stay flat: its seconds 10 to 20 stand beside its last 10, or
from three minutes on its second minute beside its last.
"""

import dataclasses
import math
import statistics
from typing import Any

import torch

from ..core.errors import require
from ..core.memory import memory_bytes, peak_memory_bytes
from ..core.progress import progress
from ..generation.admission import admit
from ..generation.generator import VideoGenerator
from ..generation.memory_plan import MemoryPlan
from ..generation.pretrained import Pretrained
from ..generation.request import Request, check_lengths, pick_decoder
from ..sampling.decoders import Jacobi
from ..sampling.noise_keys import NoiseKey
from ..sampling.plan import ClipPlan
from .report import BenchmarkReport, describe
from .runs import ClipRun, flat_frames, run_clips
from .sweep import SWEEPS, run_sweep
from .transformers_baseline import hugging_face_rows
from .variants import DEFAULT, SEQUENTIAL, Variant, logits_difference, own_variants

FLAT_FROM = 30.0  # seconds of a clip
# Of the largest logit: what rounding explains in this dtype.
LOGITS_WITHIN = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
# Numbers of int8 turn rounding into whole steps: the bundled model's logits were off by up to 0.02.
INT8_LOGITS_WITHIN = 5e-2


def benchmark(
    generator: VideoGenerator,
    *,
    seconds: float = 2.0,
    batch: int | None = None,
    guidance_scale: float | None = None,
    temperature: float | None = None,
    repeats: int = 3,
    decoder: str = "auto",
    block_size: int | None = None,
    prompt: str = "",
    baselines: bool = True,
    sweep: str | None = None,
    check: bool = False,
) -> BenchmarkReport:
    """Sample `repeats` batches of clips in each variant after one that is not counted.

    Args:
        generator: the model.
        seconds: length of a clip; of a preset a latent frame or two will do.
        batch: clips at once, 1 by default; where batches are swept over, the largest, 8 by default.
        guidance_scale: the model's default unless given; 1 is off.
        temperature: the model's default unless given.
        repeats: counted rounds; figures are their medians.
        decoder, block_size: as for `generate`: the default row.
        prompt: of all clips.
        baselines: whether others have rows too: our own step compiled by torch, and transformers, where they can.
        sweep: "depth" or "batch": the default variant alone, along a clip or over batches, in place of the rows.
        check: tiny sizes for the ceilings, clips of one latent frame, one round: whether it runs, not how fast.

    Raises:
        ReelmError: an argument is out of its range, or the clips do not fit into the memory that is free.
    """
    parts = generator.parts
    (latent_frames,) = check_lengths(parts, seconds, None)
    require(batch is None or batch >= 1, "batch", "must be at least 1", batch)
    require(repeats >= 1, "repeats", "must be at least 1", repeats)
    require(sweep is None or sweep in SWEEPS, "sweep", f"must be one of {', '.join(SWEEPS)}", sweep)
    if check:
        latent_frames, repeats = 1, 1
    sampling = parts.config.sampling
    if guidance_scale is not None:
        sampling = dataclasses.replace(sampling, guidance_scale=guidance_scale)
    if temperature is not None:
        sampling = dataclasses.replace(sampling, temperature=temperature)
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
    if seconds >= FLAT_FROM and not check:
        return _long_clip(parts, request, latent_frames, rounds)
    return _in_turns(parts, request, plan, rounds, latent_frames, baselines=baselines, check=check)


def _in_turns(
    parts: Pretrained, request: Request, plan: MemoryPlan, rounds: list[list[ClipPlan]], latent_frames: int, *,
    baselines: bool, check: bool,
) -> BenchmarkReport:  # fmt: skip
    """All variants, round after round, and what each is held against."""
    batch, sampling, chosen = len(request.plans), request.sampling, request.decoder
    # Before anything else takes memory.
    run_clips(parts, Variant(DEFAULT, chosen, parts.lm), rounds[0], sampling, latent_frames)
    peak = peak_memory_bytes(parts.lm.device)
    report = describe(parts, sampling, chosen, batch, latent_frames=latent_frames, check=check)
    report |= {"peak_memory_bytes": peak, "planned_memory_bytes": plan.runtime + plan.weights + plan.call}
    variants, left_out = own_variants(parts, chosen, sampling, batch, compiled=baselines and not check)
    others, missing = hugging_face_rows(parts, sampling, batch) if baselines else ([], {})
    count = latent_frames * parts.lm.layout.frame_size
    runs: dict[str, list[ClipRun]] = {variant.name: [] for variant in variants}
    times: dict[str, list[float]] = {baseline.name: [] for baseline in others}
    for number, plans in enumerate(progress([rounds[0], *rounds], "benchmark", unit="round")):
        for variant in variants if number else variants[1:]:  # the first variant is warm
            runs[variant.name] += [run_clips(parts, variant, plans, sampling, latent_frames)][number == 0 :]
        for baseline in others:
            times[baseline.name] += [baseline.run(count)][number == 0 :]
    oracle = SEQUENTIAL if SEQUENTIAL in runs else DEFAULT
    rows = []
    for variant in variants:
        rows.append(_row(report, variant, runs[variant.name], batch * count))
        rows[-1] |= _held_against(parts, variant, runs[variant.name], runs[oracle], request)
    for baseline in others:
        each = statistics.median(times[baseline.name]) / (batch * count)
        rows.append(
            {"row": baseline.name, "tokens_per_second": 1 / each, "ms_per_token": each * 1e3, "note": baseline.note}
        )
    base = others[0].name if others else oracle
    rate = next(row["tokens_per_second"] for row in rows if row["row"] == base)
    for row in rows:
        row["ratio"] = row["tokens_per_second"] / rate
    report |= _of_whole_clips(parts, batch, latent_frames, runs[DEFAULT])
    return BenchmarkReport(report, left_out=left_out | missing, rows=rows)


def _long_clip(
    parts: Pretrained, request: Request, latent_frames: int, rounds: list[list[ClipPlan]]
) -> BenchmarkReport:
    """The default variant alone, and whether it stays flat."""
    batch, device = len(request.plans), parts.lm.device
    variant = Variant(DEFAULT, request.decoder, parts.lm)
    runs = [
        run_clips(parts, variant, plans, request.sampling, latent_frames)
        for plans in progress(rounds, "benchmark", unit="round")
    ]
    peak, late = peak_memory_bytes(device), memory_bytes(device)
    report = describe(parts, request.sampling, request.decoder, batch, latent_frames=latent_frames, check=False)
    report["peak_memory_bytes"] = peak
    row = _row(report, variant, runs, batch * latent_frames * parts.lm.layout.frame_size)
    row |= _held_against(parts, variant, runs, runs, request) | {"ratio": 1.0, "mismatching_tokens": None}
    report |= _of_whole_clips(parts, batch, latent_frames, runs)
    flat = flat_frames(parts, latent_frames)
    return BenchmarkReport(
        report,
        flat_seconds=flat * parts.tokenizer.compression.t / parts.config.fps,
        latent_frame_seconds_early=statistics.median(t for run in runs for t in run.frames[flat : 2 * flat]),
        latent_frame_seconds_late=statistics.median(t for run in runs for t in run.frames[-flat:]),
        memory_bytes_early=runs[-1].memory_early,
        memory_bytes_late=late,
        rows=[row],
    )


def _row(report: BenchmarkReport, variant: Variant, runs: list[ClipRun], tokens: int) -> dict[str, Any]:
    took, passes = statistics.median(run.sampling for run in runs), [p for run in runs for p in run.passes]
    middle, block = statistics.median(passes), variant.decoder
    seconds_of_a_copy = report["bytes_per_pass"] / report["copy_gb_s"] / 1e9
    return {
        "row": variant.name,
        "tokens_per_second": tokens / took,
        "ms_per_token": took / tokens * 1e3,
        "tokens_per_pass": statistics.mean(run.tokens_per_pass for run in runs),
        "passes": statistics.median(len(run.passes) for run in runs),
        "p50_ms": middle * 1e3,
        "p95_ms": sorted(passes)[math.ceil(0.95 * (len(passes) - 1))] * 1e3,
        "bandwidth": f"{100 * seconds_of_a_copy / middle:.0f}%",
        "note": f"{variant.decoder.name}, {variant.decoder.exactness}"
        + (f", block {block.block_size}" if isinstance(block, Jacobi) else "")
        + (f", {variant.remark}" if variant.remark else ""),
    }


def _held_against(
    parts: Pretrained, variant: Variant, runs: list[ClipRun], oracle: list[ClipRun], request: Request
) -> dict[str, Any]:
    """How far a variant's tokens are from those of `sequential`, its logits from a masked pass, and if that will do.

    In float32 what claims the tokens of `sequential`, from the same step, must have them all; elsewhere, and with other
    arithmetic, a token may turn where two scores are closer than rounding, and all after it with it: they are counted.
    """
    pairs = zip(runs, oracle, strict=True)
    differ = sum(int((run.tokens_BtS != wanted.tokens_BtS).sum()) for run, wanted in pairs)
    difference, largest = logits_difference(parts, variant, request, oracle[0].tokens_BtS[0])
    dtype = parts.lm.numerics.dtype
    int8 = "int8" in parts.lm.numerics.precisions.values()
    within = max(LOGITS_WITHIN[dtype], INT8_LOGITS_WITHIN if int8 else 0)
    must = variant.same_bits and dtype == torch.float32 and variant.decoder.exactness != "approximate"
    return {
        "mismatching_tokens": differ,
        "logits_difference": difference,
        "largest_logit": largest,
        "ok": difference <= within * largest and not (must and differ),
    }


def _of_whole_clips(parts: Pretrained, batch: int, latent_frames: int, runs: list[ClipRun]) -> dict[str, Any]:
    """The figures of the default variant, with pixels but for presets: those would be of nobody's tokenizer."""
    frames, total = parts.tokenizer.compression.frames(latent_frames), statistics.median(run.total for run in runs)
    count = batch * latent_frames * parts.lm.layout.frame_size
    figures = {
        "latent_frames": latent_frames,
        "tokens_per_second": count / statistics.median(run.sampling for run in runs),
        "latent_frame_seconds": statistics.median(t for run in runs for t in run.frames),
    }
    if parts.random:
        return figures | {"pixels": "not decoded: the tokenizer of a preset is nobody's"}
    return figures | {
        "frames": frames,
        "frames_per_second": batch * frames / total,
        "times_realtime": frames / parts.config.fps / total,
        "first_frame_seconds": statistics.median(run.first for run in runs),
        "total_seconds": total,
    }
