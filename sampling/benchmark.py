"""The benchmark: how fast this model samples here, by each decoder, beside transformers where that is installed.

    report = generator.benchmark(seconds=2.0, batch=1)
    print(report)                       # tables; report["tokens_per_second"], json.dumps(report)

The rows take turns, after a round that is not counted; figures are medians over the rounds. What a row of ours draws is
compared with what `sequential` draws, token by token. The figures of the default row, at the top, are of whole clips:
sampled, and decoded to pixels. A clip of half a minute or more is drawn in that way alone, without a warm-up, and shows
whether time and memory stay flat: its seconds 10 to 20 stand beside its last 10, or from three minutes on its second
minute beside its last.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.errors import require
from ..core.files import atomic_path
from ..core.progress import progress
from ..lm.cache import RingCache
from .decoders import Jacobi
from .machine import machine_name, measure_ceilings, memory_bytes, now, peak_memory_bytes
from .noise import NoiseKey
from .passes import Decoder
from .peers import hugging_face_rows
from .plan import ClipPlan
from .pretrained import Pretrained
from .request import check_lengths, pick_decoder
from .rollout import Rollout
from .rules import SamplingConfig

FLAT_FROM, BY_THE_MINUTE_FROM = 30.0, 180.0  # seconds of a clip
COLUMNS = ("row", "tokens_per_second", "ratio", "ms_per_token", "tokens_per_pass", "p50_ms", "p95_ms", "bandwidth",
           "mismatching_tokens", "says")  # fmt: skip


class BenchmarkReport(dict[str, Any]):
    """Figures by name; printed as a list and a table of the rows."""

    def __str__(self) -> str:
        plain = {name: value for name, value in self.items() if name != "rows"}
        width = max(map(len, plain))
        lines = [f"{name.replace('_', ' '):{width}}  {_shown(value)}" for name, value in plain.items()]
        cells = [[name.replace("_", " ") for name in COLUMNS]]
        cells += [[_shown(row.get(name)) for name in COLUMNS] for row in self["rows"]]
        widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
        table = ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in cells]
        return "\n".join([*lines, "", *table])

    def plot(self, path: Path) -> None:
        """Draw the tokens a second of the rows as a PNG (needs matplotlib: the `train` extra)."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 1 + 0.5 * len(self["rows"])), layout="constrained")
        axes = figure.subplots()
        rows = self["rows"][::-1]
        bars = axes.barh([row["row"] for row in rows], [row["tokens_per_second"] for row in rows])
        axes.bar_label(bars, [f"{row['tokens_per_second']:.0f} ({row['ratio']:.2f}x)" for row in rows], padding=3)
        axes.margins(x=0.15)
        axes.set_xlabel(f"tokens a second, {self['model']} on {self['device']}, {self['threads']} threads, "
                        f"batch {self['batch']}, guidance {self['guidance_scale']:g}")  # fmt: skip
        with atomic_path(path) as temporary:
            figure.savefig(temporary)


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class _Run:
    """A batch of clips: its tokens; seconds in all, of sampling, to the first frame, of each latent frame and pass."""

    tokens_Bthw: torch.Tensor
    total: float
    sampling: float
    first: float
    frames: list[float]
    passes: list[float]
    tokens_per_pass: float
    memory_early: int


@torch.no_grad()
def _run_clips(
    parts: Pretrained, plans: Sequence[ClipPlan], sampling: SamplingConfig, decoder: Decoder, latent_frames: int
) -> _Run:
    device = next(parts.lm.parameters()).device
    began, cache, memory, ends = now(device), None, 0, list[float]()
    rollout = Rollout(
        parts.lm, parts.text, plans, sampling, decoder=decoder, on_step=lambda *_: ends.append(now(device))
    )
    config = parts.config.lm
    tokens_Bthw = torch.empty(len(plans), latent_frames, config.rows, config.columns, dtype=torch.int64, device=device)
    sampled, first, frames, passes = 0.0, 0.0, list[float](), list[float]()
    for index in range(latent_frames):
        start = now(device)
        tokens_Bthw[:, index] = rollout.next_frame()
        sampled += now(device) - start
        passes += [end - begin for begin, end in zip([start, *ends], ends, strict=False)]
        ends.clear()
        _, cache = parts.tokenizer.decode_chunk(tokens_Bthw[:, index : index + 1], cache)
        frames.append(now(device) - start)
        first = now(device) - began if index == 0 else first
        if index == 2 * _flat_frames(parts, latent_frames):
            memory = memory_bytes(device)
    stats, total = rollout.stats, now(device) - began
    return _Run(tokens_Bthw, total, sampled, first, frames, passes, stats.tokens / max(1, stats.steps), memory)


def _flat_frames(parts: Pretrained, latent_frames: int) -> int:
    """Latent frames of the stretches that are compared: ten seconds, or a minute of a long clip."""
    rate = parts.config.fps / parts.tokenizer.compression.t
    return int(rate * (60 if latent_frames >= BY_THE_MINUTE_FROM * rate else 10))


def run_benchmark(
    parts: Pretrained,
    *,
    seconds: float = 2.0,
    batch: int = 1,
    guidance_scale: float | None = None,
    temperature: float | None = None,
    repeats: int = 3,
    decoder: str = "auto",
    block_size: int | None = None,
    prompt: str = "",
    peers: bool = True,
    check: bool = False,
) -> BenchmarkReport:
    """Sample `repeats` batches of clips in each way after one that is not counted.

    Args:
        parts: the model.
        seconds: length of a clip.
        batch: clips at once.
        guidance_scale: the model's default unless given; 1 is off.
        temperature: the model's default unless given.
        repeats: counted rounds; figures are their medians.
        decoder, block_size: as for `generate`: the default row.
        prompt: of all clips.
        peers: whether transformers has rows too, where it is installed.
        check: tiny sizes for the ceilings, clips of one latent frame, one round: whether it runs, not how fast.

    Raises:
        ReelmError: an argument is out of its range.
    """
    (latent_frames,) = check_lengths(parts, seconds, None)
    require(batch >= 1, "batch", "must be at least 1", batch)
    require(repeats >= 1, "repeats", "must be at least 1", repeats)
    if check:
        latent_frames, repeats = 1, 1
    sampling = parts.config.sampling
    if guidance_scale is not None:
        sampling = dataclasses.replace(sampling, guidance_scale=guidance_scale)
    if temperature is not None:
        sampling = dataclasses.replace(sampling, temperature=temperature)
    chosen = pick_decoder(parts, decoder, block_size, sampling, batch)
    ways, long, base = {"reelm": chosen}, seconds >= FLAT_FROM and not check, "reelm"
    if not long:
        base = "reelm sequential"
        ways["reelm sequential"] = pick_decoder(parts, "sequential", None, sampling, batch)
        ways["reelm jacobi, a latent frame"] = pick_decoder(
            parts, "jacobi", parts.config.lm.frame_size, sampling, batch
        )
    others = hugging_face_rows(parts, sampling, batch) if peers and not long else []
    count = latent_frames * parts.config.lm.frame_size
    runs: dict[str, list[_Run]] = {name: [] for name in ways}
    times: dict[str, list[float]] = {peer.name: [] for peer in others}
    device = next(parts.lm.parameters()).device
    ceilings = measure_ceilings(device, next(parts.lm.parameters()).dtype, check=check)
    for repeat in progress(range(repeats + (not long)), "benchmark", unit="round"):
        plans = [ClipPlan(prompts=((0, prompt),), key=NoiseKey(repeat, row)) for row in range(batch)]
        for name, way in ways.items():
            runs[name].append(_run_clips(parts, plans, sampling, way, latent_frames))
        for peer in others:
            times[peer.name].append(peer.run(count))
    read = _bytes_of_a_pass(parts, batch * (1 if sampling.guidance_scale == 1 else 2))
    oracle, rows = [run.tokens_Bthw for run in runs[base]], []
    for name, way in ways.items():
        differ = sum(int((run.tokens_Bthw != wanted).sum()) for run, wanted in zip(runs[name], oracle, strict=True))
        rows.append(_row(name, runs[name][not long :], batch * count, read / ceilings["copy_gb_s"] / 1e9, differ))
        block = f", block {way.block_size}" if isinstance(way, Jacobi) else ""
        rows[-1]["says"] = f"{way.name}, {way.exactness}{block}"
    for peer in others:
        each = statistics.median(times[peer.name][1:]) / (batch * count)
        rows.append({"row": peer.name, "tokens_per_second": 1 / each, "ms_per_token": each * 1e3, "says": peer.says})
    base = others[0].name if others else base
    rate = next(row["tokens_per_second"] for row in rows if row["row"] == base)
    for row in rows:
        row["ratio"] = row["tokens_per_second"] / rate
    return _report(parts, sampling, chosen, batch, latent_frames, runs["reelm"][not long :], ceilings, rows)


def _bytes_of_a_pass(parts: Pretrained, rows: int) -> int:
    """What a pass has to read: the weights that every token needs, and the keys and values of every row."""
    lm, weight = parts.lm, next(parts.lm.parameters())
    read = sum(p.numel() for part in (lm.blocks, lm.head, lm.neighbour_mix) for p in part.parameters())
    return read * weight.element_size() + RingCache(parts.config.lm, rows, torch.device("meta"), weight.dtype).nbytes


def _row(name: str, runs: list[_Run], tokens: int, seconds_of_a_copy: float, differ: int) -> dict[str, Any]:
    took, passes = statistics.median(run.sampling for run in runs), [p for run in runs for p in run.passes]
    middle = statistics.median(passes)
    return {
        "row": name,
        "tokens_per_second": tokens / took,
        "ms_per_token": took / tokens * 1e3,
        "tokens_per_pass": statistics.mean(run.tokens_per_pass for run in runs),
        "passes": statistics.median(len(run.passes) for run in runs),
        "p50_ms": middle * 1e3,
        "p95_ms": sorted(passes)[int(0.95 * (len(passes) - 1))] * 1e3,
        "bandwidth": f"{100 * seconds_of_a_copy / middle:.0f}%",
        "mismatching_tokens": differ,
    }


def _report(
    parts: Pretrained, sampling: SamplingConfig, chosen: Decoder, batch: int, latent_frames: int, runs: list[_Run],
    ceilings: dict[str, Any], rows: list[dict[str, Any]],
) -> BenchmarkReport:  # fmt: skip
    weight, compression, fps = next(parts.lm.parameters()), parts.tokenizer.compression, parts.config.fps
    frames, total = compression.frames(latent_frames), statistics.median(run.total for run in runs)
    cache = RingCache(
        parts.config.lm, batch * (1 if sampling.guidance_scale == 1 else 2), torch.device("meta"), weight.dtype
    )
    report = BenchmarkReport(
        model=parts.name,
        device=machine_name(weight.device),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        dtype=str(weight.dtype).removeprefix("torch."),
        **ceilings,
        decoder=chosen.name,
        batch=batch,
        guidance_scale=sampling.guidance_scale,
        temperature=sampling.temperature,
        frames=frames,
        tokens_per_second=rows[0]["tokens_per_second"],
        frames_per_second=batch * frames / total,
        times_realtime=frames / fps / total,
        first_frame_seconds=statistics.median(run.first for run in runs),
        latent_frame_seconds=statistics.median(t for run in runs for t in run.frames),
        total_seconds=total,
        cache_bytes=cache.nbytes,
        peak_memory_bytes=peak_memory_bytes(weight.device),
    )
    if frames / fps >= FLAT_FROM:
        flat = _flat_frames(parts, latent_frames)
        report |= {
            "flat_seconds": flat * compression.t / fps,
            "latent_frame_seconds_early": statistics.median(t for run in runs for t in run.frames[flat : 2 * flat]),
            "latent_frame_seconds_late": statistics.median(t for run in runs for t in run.frames[-flat:]),
            "memory_bytes_early": runs[-1].memory_early,
            "memory_bytes_late": memory_bytes(weight.device),
        }
    report["rows"] = rows
    return report
