"""The benchmark: how fast this model samples on this machine.

    report = generator.benchmark(seconds=2.0, batch=1)
    print(report)                       # a table; report["tokens_per_second"], json.dumps(report)

Warm-up first, then whole clips; medians over the repeats. Pixel decoding is counted in frames per second. A clip of
half a minute or more also shows whether time and memory stay flat: its seconds 10 to 20 stand beside its last 10.
"""

import dataclasses
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.errors import require
from ..core.progress import progress
from ..lm.cache import RingCache
from .decoders import Decoder
from .noise import NoiseKey
from .plan import ClipPlan
from .pretrained import Pretrained
from .request import check_lengths, pick_decoder
from .rollout import Rollout
from .rules import SamplingConfig

FLAT_FROM = 30.0  # seconds of a clip from which on flatness is told


class BenchmarkReport(dict[str, Any]):
    """Figures by name; printed as a table."""

    def __str__(self) -> str:
        width = max(len(name) for name in self)
        return "\n".join(
            f"{name.replace('_', ' '):{width}}  {value:.4g}" if isinstance(value, float) else
            f"{name.replace('_', ' '):{width}}  {value}"
            for name, value in self.items()
        )  # fmt: skip


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory in use so far: of the device's allocator on a GPU, of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    # Kibibytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_bytes(device: torch.device) -> int:
    """The memory in use now, where the system tells it (a GPU's allocator, or Linux); else the peak."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    pages = Path("/proc/self/statm")
    if not pages.exists():
        return peak_memory_bytes(device)
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class _Clip:
    """Times of one batch of clips, in seconds: in all, sampling alone, to the first frame, and of each latent frame."""

    total: float
    sampling: float
    first: float
    frames: list[float]
    memory_at_20_seconds: int


@torch.no_grad()
def _time_clips(
    parts: Pretrained, keys: list[NoiseKey], sampling: SamplingConfig, decoder: Decoder, latent_frames: int
) -> _Clip:
    device = next(parts.lm.parameters()).device

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    began, cache, memory = now(), None, 0
    plans = [ClipPlan(prompts=((0, ""),), key=key) for key in keys]
    rollout = Rollout(parts.lm, parts.text, plans, sampling, decoder=decoder)
    sampled, first, frames = 0.0, 0.0, []
    for index in range(latent_frames):
        start = now()
        tokens = rollout.next_frame()
        sampled += now() - start
        _, cache = parts.tokenizer.decode_chunk(tokens[:, None], cache)
        frames.append(now() - start)
        first = now() - began if index == 0 else first
        if index == _latent_frames(parts, 20):
            memory = memory_bytes(device)
    return _Clip(now() - began, sampled, first, frames, memory)


def _latent_frames(parts: Pretrained, seconds: float) -> int:
    return int(seconds * parts.config.fps / parts.tokenizer.compression.t)


def run_benchmark(
    parts: Pretrained,
    *,
    seconds: float = 2.0,
    batch: int = 1,
    guidance_scale: float | None = None,
    repeats: int = 3,
    decoder: str = "auto",
    block_size: int | None = None,
) -> BenchmarkReport:
    """Sample and decode `repeats` batches of clips after one that is not counted.

    Args:
        parts: the model.
        seconds: length of a clip.
        batch: clips at once.
        guidance_scale: the model's default unless given; 1 is off.
        repeats: counted runs; figures are their medians.
        decoder, block_size: as for `generate`.

    Raises:
        ReelmError: an argument is out of its range.
    """
    (latent_frames,) = check_lengths(parts, seconds, None)
    require(batch >= 1, "batch", "must be at least 1", batch)
    require(repeats >= 1, "repeats", "must be at least 1", repeats)
    sampling = parts.config.sampling
    if guidance_scale is not None:
        sampling = dataclasses.replace(sampling, guidance_scale=guidance_scale)
    chosen = pick_decoder(parts, decoder, block_size, sampling, batch)
    runs = [
        _time_clips(parts, [NoiseKey(repeat, row) for row in range(batch)], sampling, chosen, latent_frames)
        for repeat in progress(range(repeats + 1), "benchmark", unit="run")
    ][1:]
    device = next(parts.lm.parameters()).device
    frames = parts.tokenizer.compression.frames(latent_frames)
    total = statistics.median(run.total for run in runs)
    rows = batch * (2 if sampling.guidance_scale != 1 else 1)
    report = BenchmarkReport(
        model=parts.name,
        device=torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        dtype=str(next(parts.lm.parameters()).dtype).removeprefix("torch."),
        decoder=chosen.name,
        batch=batch,
        guidance_scale=sampling.guidance_scale,
        frames=frames,
        tokens_per_second=batch
        * latent_frames
        * parts.config.lm.frame_size
        / statistics.median(r.sampling for r in runs),
        frames_per_second=batch * frames / total,
        times_realtime=frames / parts.config.fps / total,
        first_frame_seconds=statistics.median(run.first for run in runs),
        latent_frame_seconds=statistics.median(t for run in runs for t in run.frames),
        total_seconds=total,
        cache_bytes=RingCache(parts.config.lm, rows, torch.device("meta"), next(parts.lm.parameters()).dtype).nbytes,
        peak_memory_bytes=peak_memory_bytes(device),
    )
    if seconds >= FLAT_FROM:
        ten, twenty = _latent_frames(parts, 10), _latent_frames(parts, 20)
        report |= {
            "latent_frame_seconds_from_10_to_20": statistics.median(t for run in runs for t in run.frames[ten:twenty]),
            "latent_frame_seconds_in_last_10": statistics.median(t for run in runs for t in run.frames[-ten:]),
            "memory_bytes_at_20": runs[-1].memory_at_20_seconds,
            "memory_bytes_at_end": memory_bytes(device),
        }
    return report
