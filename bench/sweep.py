"""Sweeps of the benchmark: the default variant along a clip, or over batches.

    report = run_sweep(parts, sampling, "depth", latent_frames=1, batch=1, repeats=3)      # report["depths"]
    report = run_sweep(parts, sampling, "batch", latent_frames=1, batch=16, repeats=3)     # report["batches"]

Depth: what a latent frame costs as the first one, as the last that the window holds, and after the ring has wrapped,
once and often. Its clip is drawn from its beginning, as a decoder's drafts depend on what was drawn. Batch: clips of
one length, 1, 2, 4, … at once, as far as the memory plan allows.
"""

import statistics
from typing import Any

from ..core.errors import ReelmError
from ..core.memory import peak_memory_bytes
from ..core.progress import progress
from ..generation.admission import admit
from ..generation.pretrained import Pretrained
from ..generation.request import Request, pick_decoder
from ..sampling.decoders import Jacobi
from ..sampling.noise_keys import NoiseKey
from ..sampling.plan import ClipPlan
from ..sampling.rules import SamplingConfig
from .report import BenchmarkReport, describe
from .runs import ClipRun, run_clips
from .variants import DEFAULT, Variant

# What is swept over, and the name of its points in the report.
SWEEPS = {"depth": "depths", "batch": "batches"}
LARGEST_BATCH = 8


def run_sweep(
    parts: Pretrained,
    sampling: SamplingConfig,
    sweep: str,
    *,
    latent_frames: int,
    batch: int | None,
    repeats: int,
    decoder: str = "auto",
    block_size: int | None = None,
    prompt: str = "",
    check: bool = False,
) -> BenchmarkReport:
    """Measure the default variant at each point, in rounds after one that is not counted; figures are medians.

    Args:
        parts: the model.
        sampling: how tokens are drawn.
        sweep: one of SWEEPS.
        latent_frames: of a clip, where batches are swept over; a sweep over depth takes four windows.
        batch: clips at once, 1 unless given; of a sweep over batches the largest, 8 unless given.
        repeats: counted rounds.
        decoder, block_size: as for `generate`, chosen anew for each batch.
        prompt: of all clips.
        check: tiny sizes for the ceilings.
    """
    depth = sweep == "depth"
    most = batch or (1 if depth else LARGEST_BATCH)
    sizes = [most] if depth else [2**power for power in range(most.bit_length()) if 2**power < most] + [most]
    windows = 4 * parts.config.lm.window
    requests, left_out = [], {}
    for size in sizes:
        plans = [ClipPlan(prompts=((0, prompt),), key=NoiseKey(0, row)) for row in range(size)]
        request = Request(plans, sampling, pick_decoder(parts, decoder, block_size, sampling, size), batch_size=size)
        try:
            admit(parts, request, whole=False)
        except ReelmError as refusal:
            if size == sizes[0]:
                raise
            left_out[f"{size} clips"] = str(refusal)
            break
        requests.append(request)
    runs: list[list[ClipRun]] = [[] for _ in requests]
    for number in progress(range(1 + repeats), "benchmark", unit="round"):
        for request, kept in zip(requests, runs, strict=True):
            variant = Variant(DEFAULT, request.decoder, parts.lm)
            # What warms up is one latent frame: of four windows it would take as long as a round.
            length = (windows if number else 1) if depth else latent_frames
            kept += [run_clips(parts, variant, request.plans, sampling, length)][number == 0 :]
    peak = peak_memory_bytes(parts.lm.device)
    clips, length = (most, windows) if depth else (len(requests[-1].plans), latent_frames)
    report = describe(parts, sampling, requests[0].decoder, clips, latent_frames=length, check=check)
    points = _depths(parts, runs[0], most) if depth else _batches(parts, requests, runs, latent_frames)
    for point in points:
        point["ratio"] = point["tokens_per_second"] / points[0]["tokens_per_second"]
    report["peak_memory_bytes"] = peak
    return BenchmarkReport(report, left_out=left_out, **{SWEEPS[sweep]: points})


def _depths(parts: Pretrained, runs: list[ClipRun], batch: int) -> list[dict[str, Any]]:
    window, size = parts.config.lm.window, parts.lm.layout.frame_size
    points = []
    for place in (1, window, 2 * window, 4 * window):
        took = statistics.median(run.sampled[place - 1] for run in runs)
        passes = statistics.median(run.passes_of_frames[place - 1] for run in runs)
        points.append(
            {
                "latent_frame": place,
                "wrapped": place > window + 1,  # the ring holds one latent frame more than the window
                "tokens_per_second": batch * size / took,
                "ms_per_latent_frame": took * 1e3,
                "passes": passes,
            }
        )
    return points


def _batches(
    parts: Pretrained, requests: list[Request], runs: list[list[ClipRun]], latent_frames: int
) -> list[dict[str, Any]]:
    points = []
    for request, kept in zip(requests, runs, strict=True):
        took, clips = statistics.median(run.sampling for run in kept), len(request.plans)
        block = f", block {request.decoder.block_size}" if isinstance(request.decoder, Jacobi) else ""
        points.append(
            {
                "clips": clips,
                "tokens_per_second": clips * latent_frames * parts.lm.layout.frame_size / took,
                "ms_per_latent_frame": took / latent_frames * 1e3,
                "tokens_per_pass": statistics.mean(run.tokens_per_pass for run in kept),
                "note": f"{request.decoder.name}{block}",
            }
        )
    return points
