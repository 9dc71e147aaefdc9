"""The benchmark of a tokenizer: encoding and decoding, beside a network of Cosmos's shape of the same compression.

    report = measure_tokenizer(preset="base", compression="4x8x8", num_frames=17, height=128, width=128)
    print(report)                       # a list and a table; report["rows"], json.dumps(report)

Both turn the same clip of uint8 into token ids, and those into pixels, in one process. They take turns, after a round
that is not counted; times are medians over the rounds. A ratio is the median over the rounds of the baseline's time
divided by the row's of the same round, so that what slows the machine for a while slows both.
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
from ..tokenizer.tokenizer_config import tokenizer_preset
from ..tokenizer.video_tokenizer import VideoTokenizer, load_tokenizer
from .cosmos_baseline import CHANNELS, CosmosShape, has_peer
from .machine import machine_name, measure_ceilings
from .table import list_lines, table_lines

COLUMNS = (
    *("row", "encode_ms", "decode_ms", "both_ms", "encode_ratio", "decode_ratio", "ratio", "frames_per_second"),
    *("encode_gflops", "decode_gflops", "gflop_s", "parameters", "note"),
)
DEFAULT = ("base", "4x8x8")  # preset and compression
CHECK_CHANNELS = 8  # of the baseline, where only whether it runs is asked


class TokenizerReport(dict[str, Any]):
    """Figures by name; printed as a list and a table of the rows."""

    def __str__(self) -> str:
        plain = {name: value for name, value in self.items() if name != "rows"}
        return "\n".join([*list_lines(plain), "", *table_lines(COLUMNS, self["rows"])])


def random_tokenizer(
    preset: str = "base", compression: str = "4x8x8", *, device: str = "auto", dtype: str = "auto"
) -> VideoTokenizer:
    """A tokenizer of a preset's size whose weights are random: as fast as a trained one.

    Args:
        preset, compression: see `tokenizer_preset`.
        device, dtype: see core/device.py.
    """
    place = pick_device(device)
    tokenizer = VideoTokenizer(tokenizer_preset(preset, compression))
    _randomise(tokenizer)
    return tokenizer.to(place, pick_dtype(dtype, place))


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
    """Load a tokenizer by name, or make one of random weights, and measure it: see `benchmark_tokenizer`.

    Args:
        preset: random weights of this size: tiny, small or base.
        compression: frames x rows x columns of a token of the preset: 4x8x8, 8x8x8, 4x16x16 or 8x16x16.
        tokenizer: the folder of a tokenizer's training, in place of a preset.
        num_frames, height, width, batch, repeats, baselines, check: as for `benchmark_tokenizer`.
        device, dtype: of both networks; see core/device.py.

    Raises:
        ReelmError: an argument is out of its range, or a preset is given beside a tokenizer.
    """
    if tokenizer is None:
        model = random_tokenizer(preset, compression, device=device, dtype=dtype)
    else:
        given = (preset, compression)
        require(given == DEFAULT, "preset, compression", "must not be given with a tokenizer", given)
        model = load_tokenizer(tokenizer, device=device)
        model.to(pick_dtype(dtype, next(model.parameters()).device))
    return benchmark_tokenizer(
        model, name=str(tokenizer or preset), num_frames=num_frames, height=height, width=width, batch=batch,
        repeats=repeats, baselines=baselines, check=check,
    )  # fmt: skip


def benchmark_tokenizer(
    tokenizer: VideoTokenizer,
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
    """Encode and decode a random clip `repeats` times with each network after one round that is not counted.

    Args:
        tokenizer: to be measured, on its device and in its dtype; the baseline goes there too.
        name: what the report calls it.
        num_frames, height, width: of a clip, whole tokens of it.
        batch: clips at once.
        repeats: counted rounds.
        baselines: whether the network of Cosmos's shape has a row.
        check: a clip of a few tokens, one round and a narrow baseline: whether it runs, not how fast.

    Raises:
        ReelmError: an argument is out of its range.
    """
    require(batch >= 1, "batch", "must be at least 1", batch)
    require(repeats >= 1, "repeats", "must be at least 1", repeats)
    stride, weight = tokenizer.compression, next(tokenizer.parameters())
    if check:
        num_frames, height, width, repeats = 1 + stride.t, 2 * stride.h, 2 * stride.w, 1
    grid = tokenizer.grid(num_frames, height, width)
    networks: dict[str, tuple[nn.Module, str]] = {"reelm": (tokenizer, name)}
    left_out = {}
    if baselines and has_peer(stride):
        baseline = CosmosShape(stride, CHECK_CHANNELS if check else CHANNELS)
        _randomise(baseline)
        networks["cosmos"] = (
            baseline.to(weight.device, weight.dtype),
            "a narrow network for --check" if check else "a network of equal shape",
        )
    elif baselines:
        left_out["cosmos"] = "no such compression"
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(256, (batch, num_frames, height, width, 3), dtype=torch.uint8, generator=generator)
    clip = clip.to(weight.device)
    report = TokenizerReport(
        tokenizer=name, compression=f"{stride.t}x{stride.h}x{stride.w}", num_frames=num_frames, height=height,
        width=width, batch=batch, tokens=batch * grid.size, repeats=repeats, device=machine_name(weight.device),
        torch=torch.__version__, threads=torch.get_num_threads(), dtype=str(weight.dtype).removeprefix("torch."),
        **measure_ceilings(weight.device, weight.dtype, check=check), left_out=left_out,
    )  # fmt: skip
    work = {row: _count(network, clip) for row, (network, _) in networks.items()}
    times: dict[str, list[tuple[float, float]]] = {row: [] for row in networks}
    for _ in progress(range(repeats), "benchmark", unit="round"):
        for row, (network, _) in networks.items():
            times[row].append(_run(network, clip))
    base = None if check else times.get("cosmos")  # a ratio to a narrow network would tell nothing
    report["rows"] = [
        {"row": row, **_figures(times[row], base), **_rates(times[row], work[row], batch * num_frames),
         "parameters": sum(parameter.numel() for parameter in network.parameters()), "note": says}
        for row, (network, says) in networks.items()
    ]  # fmt: skip
    return report


def _randomise(network: nn.Module) -> None:
    """Draw the weights: no matrix is left at zero, which some GPUs multiply faster."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5, generator=generator)
    network.eval().requires_grad_(False)


@torch.inference_mode()
def _run(network: Any, clip: torch.Tensor) -> tuple[float, float]:
    """Seconds of encoding and of decoding."""
    began = now(clip.device)
    tokens_Bthw = network.encode(clip)
    encoded = now(clip.device)
    network.decode(tokens_Bthw)
    return encoded - began, now(clip.device) - encoded


@torch.inference_mode()
def _count(network: Any, clip: torch.Tensor) -> tuple[float, float]:
    """GFLOPs of encoding and of decoding, a multiply-add counted as two; what it runs for that is the warm-up."""
    with FlopCounterMode(display=False) as encoding:
        tokens_Bthw = network.encode(clip)
    with FlopCounterMode(display=False) as decoding:
        network.decode(tokens_Bthw)
    return encoding.get_total_flops() / 1e9, decoding.get_total_flops() / 1e9


def _figures(times: list[tuple[float, float]], baseline: list[tuple[float, float]] | None) -> dict[str, Any]:
    """Milliseconds of encoding, decoding and both, and how often they go into the baseline's."""
    figures: dict[str, Any] = {}
    kinds = {"encode": (1, 0), "decode": (0, 1), "both": (1, 1)}
    for kind, (first, second) in kinds.items():
        each = [first * encode + second * decode for encode, decode in times]
        figures[f"{kind}_ms"] = statistics.median(each) * 1e3
        if baseline is not None:
            theirs = [first * encode + second * decode for encode, decode in baseline]
            ratios = [a / b for a, b in zip(theirs, each, strict=True)]
            figures["ratio" if kind == "both" else f"{kind}_ratio"] = statistics.median(ratios)
    return figures | {"rounds_ms": [1e3 * (encode + decode) for encode, decode in times]}


def _rates(times: list[tuple[float, float]], work: tuple[float, float], frames: int) -> dict[str, float]:
    seconds = statistics.median(map(sum, times))
    return {
        "frames_per_second": frames / seconds, "encode_gflops": work[0], "decode_gflops": work[1],
        "gflop_s": sum(work) / seconds,
    }  # fmt: skip
