"""Sweeps of the benchmark: the speed of the default variant along a clip, or over batch sizes.

    report = run_sweep(parts, sampling, "depth", latent_frames=1, batch=1, repeats=3)      # report["depths"]
    report = run_sweep(parts, sampling, "batch", latent_frames=1, batch=16, repeats=3)     # report["batches"]

Depth: the time of the first latent frame, of the last one that fits into the window, and of two after the ring cache
has wrapped, once and several times. The clip is drawn from its beginning, because a decoder's drafts depend on the
tokens that were drawn before. Batch: clips of one length, 1, 2, 4, … at once, as far as the memory plan allows.
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
from ..sampling.plan import ClipPlan, NoiseKey, SamplingConfig
from .report import BenchmarkReport, describe
from .runs import ClipRun, run_clips
from .variants import default_variant

# The variable of each sweep, and the name of the sweep's points in the report.
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
    """Measure the default variant at each point, once to warm up and then in `repeats` rounds; figures are medians.

    Args:
        parts: The parts of the model.
        sampling: The settings by which tokens are drawn.
        sweep: The variable, one of SWEEPS.
        latent_frames: The latent frames of a clip in a sweep over batches; a sweep over depth uses four windows.
        batch: The number of clips at once, 1 by default; for a sweep over batches the largest, 8 by default.
        repeats: The number of measured rounds.
        decoder, block_size: The decoder, as for `generate`; "auto" chooses anew for each batch size.
        prompt: The prompt of all clips.
        check: Whether to use tiny sizes for the ceilings.

    Raises:
        ReelmError: The smallest batch does not fit into memory.
    """
    depth = sweep == "depth"
    largest = batch or (1 if depth else LARGEST_BATCH)
    powers = [2**power for power in range(largest.bit_length())]
    sizes = [largest] if depth else [*(power for power in powers if power < largest), largest]
    windows = 4 * parts.config.lm.window
    requests, left_out = [], {}
    for size in sizes:
        plans = [ClipPlan(prompts=((0, prompt),), key=NoiseKey(0, row)) for row in range(size)]
        request = Request(plans, sampling, pick_decoder(parts, decoder, block_size, sampling, size), batch_size=size)
        try:
            admit(parts, request, whole=False)
        except ReelmError as error:
            if size == sizes[0]:
                raise
            left_out[f"{size} clips"] = str(error)
            break
        requests.append(request)
    runs: list[list[ClipRun]] = [[] for _ in requests]
    for number in progress(range(1 + repeats), "benchmark", unit="round"):
        for request, request_runs in zip(requests, runs, strict=True):
            variant = default_variant(parts, request.decoder, request.sampling)
            # The warm-up of a sweep over depth is one latent frame, because four windows take as long as a round.
            length = (windows if number else 1) if depth else latent_frames
            request_runs += [run_clips(parts, variant, request.plans, sampling, length)][number == 0 :]
    peak = peak_memory_bytes(parts.lm.device)
    clips, length = (largest, windows) if depth else (len(requests[-1].plans), latent_frames)
    report = describe(parts, sampling, requests[0].decoder, clips, latent_frames=length, check=check)
    points = _depths(parts, runs[0], largest) if depth else _batches(parts, requests, runs, latent_frames)
    for point in points:
        point["ratio"] = point["tokens_per_second"] / points[0]["tokens_per_second"]
    report["peak_memory_bytes"] = peak
    return BenchmarkReport(report, left_out=left_out, **{SWEEPS[sweep]: points})


def _depths(parts: Pretrained, runs: list[ClipRun], batch: int) -> list[dict[str, Any]]:
    """Return the points of a sweep over depth."""
    window, size = parts.config.lm.window, parts.lm.layout.frame_size
    points = []
    for number in (1, window, 2 * window, 4 * window):  # of the latent frame, from 1
        seconds = statistics.median(run.sampled[number - 1] for run in runs)
        passes = statistics.median(run.passes_of_frames[number - 1] for run in runs)
        points.append(
            {
                "latent_frame": number,
                "wrapped": number > window + 1,  # the ring has one latent frame more than the window
                "tokens_per_second": batch * size / seconds,
                "ms_per_latent_frame": seconds * 1e3,
                "passes": passes,
            }
        )
    return points


def _batches(
    parts: Pretrained, requests: list[Request], runs: list[list[ClipRun]], latent_frames: int
) -> list[dict[str, Any]]:
    """Return the points of a sweep over batches."""
    points = []
    for request, request_runs in zip(requests, runs, strict=True):
        seconds, clips = statistics.median(run.sampling for run in request_runs), len(request.plans)
        block = f", block {request.decoder.block_size}" if isinstance(request.decoder, Jacobi) else ""
        points.append(
            {
                "clips": clips,
                "tokens_per_second": clips * latent_frames * parts.lm.layout.frame_size / seconds,
                "ms_per_latent_frame": seconds / latent_frames * 1e3,
                "tokens_per_pass": statistics.mean(run.tokens_per_pass for run in request_runs),
                "note": f"{request.decoder.name}{block}",
            }
        )
    return points
