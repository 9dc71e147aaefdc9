"""The benchmark: how fast this model samples on this machine.

    report = generator.benchmark(seconds=2.0, batch=1)
    print(report)                       # a table; report["tokens_per_second"], json.dumps(report)

Warm-up first, then whole clips; medians over the repeats. Pixel decoding is counted in frames per second.
"""

import platform
import statistics
import sys
import time
from typing import Any

import torch

from ..core.errors import require
from .noise import NoiseKey
from .pretrained import Pretrained
from .request import check_length
from .rollout import Rollout


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


@torch.no_grad()
def run_benchmark(
    parts: Pretrained, *, seconds: float = 2.0, batch: int = 1, guidance_scale: float | None = None, repeats: int = 3
) -> BenchmarkReport:
    """Sample and decode `repeats` batches of clips after one that is not counted.

    Args:
        parts: the model.
        seconds: length of a clip.
        batch: clips at once.
        guidance_scale: the model's default unless given; 1 is off.
        repeats: counted runs; figures are their medians.

    Raises:
        ReelmError: an argument is out of its range.
    """
    latent_frames = check_length(parts, seconds, None)
    require(batch >= 1, "batch", "must be at least 1", batch)
    require(repeats >= 1, "repeats", "must be at least 1", repeats)
    sampling = parts.config.sampling
    if guidance_scale is not None:
        sampling = type(sampling)(**{**vars(sampling), "guidance_scale": guidance_scale})
    device = next(parts.lm.parameters()).device

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    runs = []
    for repeat in range(repeats + 1):
        began, first, per_frame, cache = now(), 0.0, [], None
        keys = [NoiseKey(repeat, row) for row in range(batch)]
        rollout = Rollout(parts.lm, parts.text, [""] * batch, keys, sampling)
        sampling_seconds = 0.0
        for index in range(latent_frames):
            start = now()
            tokens = rollout.next_frame()
            sampling_seconds += now() - start
            _, cache = parts.tokenizer.decode_chunk(tokens[:, None], cache)
            per_frame.append(now() - start)
            first = now() - began if index == 0 else first
        runs.append((now() - began, sampling_seconds, first, statistics.median(per_frame)))
    total, sampling_total, first, per_frame_median = (statistics.median(column) for column in zip(*runs[1:], strict=True))
    tokens_made = batch * latent_frames * parts.config.lm.frame_size
    frames_made = batch * parts.tokenizer.compression.frames(latent_frames)
    return BenchmarkReport(
        model=parts.name,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine(),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        dtype=str(next(parts.lm.parameters()).dtype).removeprefix("torch."),
        batch=batch,
        guidance_scale=sampling.guidance_scale,
        frames=frames_made // batch,
        tokens_per_second=tokens_made / sampling_total,
        frames_per_second=frames_made / total,
        times_realtime=frames_made / batch / parts.config.fps / total,
        first_frame_seconds=first,
        latent_frame_seconds=per_frame_median,
        total_seconds=total,
        cache_bytes=rollout.cache.nbytes,
        peak_memory_bytes=peak_memory_bytes(device),
    )
