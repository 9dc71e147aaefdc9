"""Measure which block size of `jacobi` is the fastest for a model on this machine, and keep it for later calls.

    report = measure_blocks(generator, clips=(1, 8))
    print(report)                       # a list and a table; report["rows"], report["best"], json.dumps(report)

The sizes take turns, so that what slows the machine for a while slows all of them. After the first round only those
stay that are not far from the best. A speed is the median over the rounds, in tokens per second of all clips together.
A model that is played draws under keys that change at random: one clip as it is played, latent frame by latent frame,
and several at once.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ..core.errors import require
from ..core.progress import progress
from ..generation.block_sizes import BlockSizes
from ..generation.generator import VideoGenerator
from ..generation.play_clock import random_track
from ..generation.pretrained import controller_of
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
    prompt: str | None = None,
    repeats: int = 5,
    keep: bool = True,
    check: bool = False,
) -> BlockReport:
    """Measure the speed of the block sizes by the number of clips at a time, with the model's default settings.

    Args:
        generator: The generator.
        clips: The numbers of clips at a time.
        seconds: The length of a clip in seconds.
        prompt: The prompt of all clips, which have seeds of their own; without one, a usual one for the bundled model
            of rendered worlds, and one that says hardly anything for a model that is played.
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
        entries = _measure(_Clips(generator, count, seconds, prompt), sizes, repeats)
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


class _Clips:
    """The clips that are drawn again and again."""

    def __init__(self, generator: VideoGenerator, count: int, seconds: float, prompt: str | None) -> None:
        self._generator, self.count, self._seconds = generator, count, seconds
        config, self._track = generator.parts.config, None
        if controller := controller_of(config.lm):
            pictures = max(1, round(seconds * config.fps))
            self._track = random_track(controller.keys, pictures, fps=config.fps, seed=0)
        usual = "a" if controller else "a red ball rolls to the right over grass"
        self._prompts = [usual if prompt is None else prompt] * count

    def draw(self, size: int) -> dict[str, Any]:
        """Return the statistics of drawing them in blocks of a size, of which 1 stands for `sequential`."""
        decoder: Literal["sequential", "jacobi"] = "sequential" if size == 1 else "jacobi"
        block_size = None if size == 1 else size
        seeds, track, generator = list(range(self.count)), self._track, self._generator
        if track is None:
            videos = generator.generate(
                self._prompts, seconds=self._seconds, seed=seeds, decoder=decoder, block_size=block_size
            )
            return videos[0].stats
        if self.count > 1:
            videos = generator.generate(self._prompts, keys=track, seed=seeds, decoder=decoder, block_size=block_size)
            return videos[0].stats
        with generator.play(self._prompts[0], seed=0, ahead=False, decoder=decoder, block_size=block_size) as session:
            for first in range(0, len(track), session.step_pictures):
                session.step(track.keys[first])
            return session.stats


def _measure(clips: _Clips, sizes: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Return the speed and the tokens per pass of each size that stays after the first round."""
    speeds: dict[int, list[float]] = {size: [] for size in sizes}
    passes: dict[int, float] = {}

    def draw(size: int) -> None:
        stats = clips.draw(size)
        speeds[size].append(stats["tokens_per_second"])
        passes[size] = stats["tokens_per_pass"]

    draw(sizes[-1])  # what is made at the first pass is not measured
    speeds[sizes[-1]].clear()
    for size in progress(sizes, f"block sizes for {clips.count} clips, first round", unit="size"):
        draw(size)
    most = max(speed for (speed,) in speeds.values())
    staying = [size for size in sizes if speeds[size][0] >= STAYS * most]
    for turn in progress(range(repeats), f"block sizes for {clips.count} clips", unit="round"):
        for size in staying if turn % 2 else reversed(staying):
            draw(size)
    return [
        {"block_size": size, "tokens_per_second": statistics.median(speeds[size]), "tokens_per_pass": passes[size]}
        for size in staying
    ]
