"""Benchmark a tokenizer's encoding and decoding against the networks of Cosmos with the same compression.

    report = measure_tokenizer(preset="base", compression="4x8x8", num_frames=17, height=128, width=128)
    print(report)                       # a list and a table; report["rows"], json.dumps(report)

In one process, each network encodes the same uint8 clip to token ids and decodes these to pixels. The networks are
measured alternately, in rounds, after one warm-up round that is not counted; times are medians over the rounds. A ratio
is the median over the rounds of the baseline's time divided by the row's time in the same round, so that a temporary
slowdown of the machine affects both.
"""

import statistics
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..core.clock import now
from ..core.device import pick_device, pick_dtype
from ..core.errors import require
from ..core.progress import progress
from ..core.protocols import AnyCodec
from ..tokenizer.codec_files import load_tokenizer
from ..tokenizer.cosmos_config import CosmosConfig
from ..tokenizer.cosmos_tokenizer import CosmosTokenizer
from ..tokenizer.tokenizer_config import tokenizer_preset
from ..tokenizer.video_tokenizer import VideoTokenizer
from .machine import library_versions, machine_name, measure_ceilings
from .table import list_lines, table_lines

COLUMNS = (
    *("row", "encode_ms", "decode_ms", "both_ms", "encode_ratio", "decode_ratio", "ratio", "frames_per_second"),
    *("encode_gflops", "decode_gflops", "gflop_s", "parameters", "note"),
)
DEFAULT = ("base", "4x8x8")  # preset, compression
CHECK_CHANNELS = 8  # of the baseline in a check, which only tests whether it runs
TEMPORAL, SPATIAL = (4, 8), (8, 16)  # of Cosmos' tokenizers; 4x16x16 was not published, and follows from the others


class TokenizerReport(dict[str, Any]):
    """Figures by name, with one dictionary per network under "rows"; printed as a list and a table."""

    def __str__(self) -> str:
        values = {name: value for name, value in self.items() if name != "rows"}
        return "\n".join([*list_lines(values), "", *table_lines(COLUMNS, self["rows"])])


def random_tokenizer(
    preset: str = "base", compression: str = "4x8x8", *, device: str = "auto", dtype: str = "auto"
) -> VideoTokenizer:
    """Make a tokenizer of a preset's size with random weights, which is as fast as a trained one.

    Args:
        preset, compression: The size and the compression, as for `tokenizer_preset`.
        device, dtype: The device and dtype by name; see core/device.py.
    """
    target = pick_device(device)
    tokenizer = VideoTokenizer(tokenizer_preset(preset, compression))
    _randomize(tokenizer)
    return tokenizer.to(target, pick_dtype(dtype, target))


def measure_tokenizer(
    *,
    preset: str = "base",
    compression: str = "4x8x8",
    tokenizer: Path | None = None,
    num_frames: int = 17,
    height: int = 128,
    width: int = 128,
    batch: int = 1,
    repeats: int = 5,
    device: str = "auto",
    dtype: str = "auto",
    baselines: bool = True,
    check: bool = False,
) -> TokenizerReport:
    """Load a tokenizer, or make one with random weights, and measure it with `benchmark_tokenizer`.

    Args:
        preset: The size of a tokenizer with random weights: tiny, small or base.
        compression: The pixels per token of the preset, frames x rows x columns: 4x8x8, 8x8x8, 4x16x16 or 8x16x16.
        tokenizer: The folder of a tokenizer's training run, in place of a preset.
        num_frames, height, width, batch, repeats, baselines, check: The arguments of `benchmark_tokenizer`.
        device, dtype: The device and dtype of both networks; see core/device.py.

    Raises:
        ReelmError: An argument is out of its range, or both a preset and a tokenizer are given.
    """
    if tokenizer is None:
        model: AnyCodec = random_tokenizer(preset, compression, device=device, dtype=dtype)
    else:
        chosen = (preset, compression)
        require(chosen == DEFAULT, "preset, compression", "must not be given with a tokenizer", chosen)
        model = load_tokenizer(tokenizer, device=device)
        assert isinstance(model, nn.Module)
        model.to(pick_dtype(dtype, model.device))
    return benchmark_tokenizer(
        model, name=str(tokenizer or preset), num_frames=num_frames, height=height, width=width, batch=batch,
        repeats=repeats, baselines=baselines, check=check,
    )  # fmt: skip


def benchmark_tokenizer(
    tokenizer: AnyCodec,
    *,
    name: str = "tokenizer",
    num_frames: int = 17,
    height: int = 128,
    width: int = 128,
    batch: int = 1,
    repeats: int = 5,
    baselines: bool = True,
    check: bool = False,
) -> TokenizerReport:
    """Encode and decode a random clip with each network, once to warm up and then in `repeats` measured rounds.

    Args:
        tokenizer: The tokenizer to measure; the baseline uses its device and dtype.
        name: The name of the tokenizer in the report.
        num_frames, height, width: The frames and the pixels of a clip, which must fill whole tokens.
        batch: The number of clips that are encoded or decoded at once.
        repeats: The number of measured rounds.
        baselines: Whether to measure Cosmos' networks too.
        check: Whether to use a clip of a few tokens, one round and a narrow baseline, which tests whether everything
            runs, not how fast.

    Raises:
        ReelmError: An argument is out of its range.
    """
    require(batch >= 1, "batch", "must be at least 1", batch)
    require(repeats >= 1, "repeats", "must be at least 1", repeats)
    assert isinstance(tokenizer, nn.Module)
    stride, weight = tokenizer.compression, next(tokenizer.parameters())
    if check:
        num_frames, height, width, repeats = stride.frames(2), 2 * stride.h, 2 * stride.w, 1
    grid = tokenizer.grid(num_frames, height, width)
    networks: dict[str, tuple[nn.Module, str]] = {"reelm": (tokenizer, name)}
    left_out = {}
    if baselines and stride.first == 1 and stride.t in TEMPORAL and stride.h in SPATIAL and stride.w == stride.h:
        channels = CHECK_CHANNELS if check else CosmosConfig.channels
        baseline = CosmosTokenizer(CosmosConfig(temporal=stride.t, spatial=stride.h, channels=channels))
        _randomize(baseline)
        networks["cosmos"] = (
            baseline.to(weight.device, weight.dtype),
            "a narrow network for --check" if check else "Cosmos' networks, random weights",
        )
    elif baselines:
        left_out["cosmos"] = "no such compression"
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(256, (batch, num_frames, height, width, 3), dtype=torch.uint8, generator=generator)
    clip = clip.to(weight.device)
    report = TokenizerReport(
        tokenizer=name, compression=f"{stride.t}x{stride.h}x{stride.w}", num_frames=num_frames, height=height,
        width=width, batch=batch, tokens=batch * grid.size, repeats=repeats, device=machine_name(weight.device),
        torch=torch.__version__, versions=library_versions(), threads=torch.get_num_threads(),
        dtype=str(weight.dtype).removeprefix("torch."), **measure_ceilings(weight.device, weight.dtype, check=check),
        left_out=left_out,
    )  # fmt: skip
    gflops = {row: _count(network, clip) for row, (network, _) in networks.items()}
    times: dict[str, list[tuple[float, float]]] = {row: [] for row in networks}
    for _ in progress(range(repeats), "benchmark", unit="round"):
        for row, (network, _) in networks.items():
            times[row].append(_run(network, clip))
    base = None if check else times.get("cosmos")  # a ratio to a narrow network would mean nothing
    report["rows"] = [
        {"row": row, **_figures(times[row], base), **_rates(times[row], gflops[row], batch * num_frames),
         "parameters": sum(parameter.numel() for parameter in network.parameters()), "note": note}
        for row, (network, note) in networks.items()
    ]  # fmt: skip
    return report


def _randomize(network: nn.Module) -> None:
    """Draw random weights, so that no matrix is zero: some GPUs multiply zeros faster."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5, generator=generator)
    network.eval().requires_grad_(False)


@torch.inference_mode()
def _run(network: Any, clip: torch.Tensor) -> tuple[float, float]:
    """Return the seconds that encoding and decoding take."""
    start = now(clip.device)
    tokens_Bthw = network.encode(clip)
    encoded = now(clip.device)
    network.decode(tokens_Bthw)
    return encoded - start, now(clip.device) - encoded


@torch.inference_mode()
def _count(network: Any, clip: torch.Tensor) -> tuple[float, float]:
    """Return the GFLOPs of encoding and of decoding, with a multiply-add counted as two; this is the warm-up round."""
    with FlopCounterMode(display=False) as encoding:
        tokens_Bthw = network.encode(clip)
    with FlopCounterMode(display=False) as decoding:
        network.decode(tokens_Bthw)
    return encoding.get_total_flops() / 1e9, decoding.get_total_flops() / 1e9


def _figures(times: list[tuple[float, float]], baseline: list[tuple[float, float]] | None) -> dict[str, Any]:
    """Return the milliseconds of encoding, decoding and both, and the ratios of the baseline's times to these."""
    figures: dict[str, Any] = {}
    parts = {"encode": (1, 0), "decode": (0, 1), "both": (1, 1)}
    for part, (with_encode, with_decode) in parts.items():
        own = [with_encode * encode + with_decode * decode for encode, decode in times]
        figures[f"{part}_ms"] = statistics.median(own) * 1e3
        if baseline is not None:
            others = [with_encode * encode + with_decode * decode for encode, decode in baseline]
            ratios = [other / mine for other, mine in zip(others, own, strict=True)]
            figures["ratio" if part == "both" else f"{part}_ratio"] = statistics.median(ratios)
    return figures | {"rounds_ms": [1e3 * (encode + decode) for encode, decode in times]}


def _rates(times: list[tuple[float, float]], gflops: tuple[float, float], frames: int) -> dict[str, float]:
    """Return frames a second, the GFLOPs of encoding and decoding, and GFLOP/s."""
    seconds = statistics.median(map(sum, times))
    return {
        "frames_per_second": frames / seconds, "encode_gflops": gflops[0], "decode_gflops": gflops[1],
        "gflop_s": sum(gflops) / seconds,
    }  # fmt: skip
