"""Measure which block size of `jacobi` is the fastest for a model on this machine, and keep it for later calls.

    report = measure_blocks(generator, clips=(1, 8))
    print(report)                       # a list and a table; report["rows"], report["best"], json.dumps(report)

The sizes take turns, so that what slows the machine for a while slows all of them. After the first round only those
stay that are not far from the best. A speed is the median over the rounds, in tokens per second of all clips together.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..core.errors import require
from ..core.progress import progress
from ..generation.block_sizes import BlockSizes
from ..generation.generator import VideoGenerator
from ..generation.request import check_lengths
from ..sampling.decoders import MAX_FRAMES
from .machine import library_versions, machine_name
from .table import list_lines, table_lines

SIZES = (1, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # 1 is `sequential`
STAYS = 0.75  # of the best speed in the first round
COLUMNS = ("clips", "rows", "block_size", "tokens_per_second", "of_the_best", "tokens_per_pass")


class BlockReport(dict[str, Any]):
    """Figures by name, with one dictionary for each number of clips and size under "rows"; printed as a table."""

    def __str__(self) -> str:
        values = {name: value for name, value in self.items() if name != "rows"}
        return "\n".join([*list_lines(values), "", *table_lines(COLUMNS, self["rows"])])


def measure_blocks(
    generator: VideoGenerator,
    *,
    clips: tuple[int, ...] = (1, 2, 4, 8),
    seconds: float = 2.0,
    prompt: str = "a red ball rolls to the right over grass",
    repeats: int = 5,
    keep: bool = True,
    check: bool = False,
) -> BlockReport:
    """Measure the speed of the block sizes by the number of clips at a time, with the model's default settings.

    Args:
        generator: The generator.
        clips: The numbers of clips at a time.
        seconds: The length of a clip in seconds.
        prompt: The prompt of all clips, which have seeds of their own.
        repeats: The number of rounds after the first one.
        keep: Whether the best sizes are written into the user's cache folder, from which later calls choose them.
        check: Whether to run one round of clips of one frame and keep nothing, which tests whether everything runs.

    Raises:
        ReelmError: An argument is out of its range.
    """
    require(len(clips) > 0 and min(clips) >= 1, "clips", "must be whole numbers of at least 1", list(clips))
    require(repeats >= 1, "repeats", "must be at least 1", repeats)
    config = generator.parts.config
    check_lengths(config, seconds, None)
    seconds, repeats, keep = (1 / config.fps, 1, False) if check else (seconds, repeats, keep)
    sizes = [size for size in SIZES if size <= MAX_FRAMES * config.lm.layout.frame_size]
    sizes = [sizes[0], sizes[-1]] if check else sizes
    found, best = [], {}
    for count in clips:
        rows = count * config.sampling.rows(generator.parts.lm.guidance)
        entries = _measure(generator, [prompt] * count, seconds, sizes, repeats)
        fastest = max(entries, key=lambda entry: entry["tokens_per_second"])
        best[rows] = fastest["block_size"]
        for entry in entries:
            share = entry["tokens_per_second"] / fastest["tokens_per_second"]
            found.append({"clips": count, "rows": rows, **entry, "of_the_best": share})
    kept: Path | None = BlockSizes.of(generator.parts).keep(best) if keep else None
    return BlockReport(
        model=generator.parts.name, machine=machine_name(generator.parts.lm.device), threads=torch.get_num_threads(),
        **library_versions(), seconds=seconds, repeats=repeats, best={str(rows): size for rows, size in best.items()},
        kept=None if kept is None else str(kept), rows=found,
    )  # fmt: skip


def _measure(
    generator: VideoGenerator, prompts: list[str], seconds: float, sizes: Sequence[int], repeats: int
) -> list[dict[str, Any]]:
    """Return the speed and the tokens per pass of each size that stays after the first round."""
    speeds: dict[int, list[float]] = {size: [] for size in sizes}
    passes: dict[int, float] = {}

    def draw(size: int) -> None:
        words = {"decoder": "sequential"} if size == 1 else {"decoder": "jacobi", "block_size": size}
        videos = generator.generate(prompts, seconds=seconds, seed=list(range(len(prompts))), **words)
        speeds[size].append(videos[0].stats["tokens_per_second"])
        passes[size] = videos[0].stats["tokens_per_pass"]

    draw(sizes[-1])  # what is made at the first pass is not measured
    speeds[sizes[-1]].clear()
    for size in progress(sizes, f"block sizes for {len(prompts)} clips, first round", unit="size"):
        draw(size)
    most = max(speed for (speed,) in speeds.values())
    staying = [size for size in sizes if speeds[size][0] >= STAYS * most]
    for turn in progress(range(repeats), f"block sizes for {len(prompts)} clips", unit="round"):
        for size in staying if turn % 2 else reversed(staying):
            draw(size)
    return [
        {"block_size": size, "tokens_per_second": statistics.median(speeds[size]), "tokens_per_pass": passes[size]}
        for size in staying
    ]
