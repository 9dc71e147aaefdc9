"""Measure what a clip costs from a shell: the processor time of a whole process, next to that of `import torch` alone.

    report = measure_startup(seconds=2.0)
    print(report)                       # a list and a table; report["rows"], json.dumps(report)

In each round every row runs once, in a process of its own; a first round warms the file cache and is not counted. Times
are medians over the rounds. A ratio is the median, and its quartiles, over the rounds of a row's processor time divided
by that of `import torch` in the same round, so that a temporary slowdown of the machine affects both.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..core.checkpoint import find_checkpoint
from ..core.errors import ReelmError, require
from ..core.progress import progress
from ..generation.pretrained import read_config
from ..generation.request import check_lengths
from .machine import library_versions, machine_name
from .table import list_lines, table_lines
from .turns import ratios_of

COLUMNS = ("row", "cpu_seconds", "seconds", "ratio", "ratio_low", "ratio_high")
BASE = "import torch"
SCRIPT = "from reelm.cli import script; script()"  # what the command `reelm` of this environment runs


class StartupReport(dict[str, Any]):
    """Figures by name, with one dictionary per kind of process under "rows"; printed as a list and a table."""

    def __str__(self) -> str:
        values = {name: value for name, value in self.items() if name != "rows"}
        return "\n".join([*list_lines(values), "", *table_lines(COLUMNS, self["rows"])])


def measure_startup(
    *,
    model: str = "world",
    seconds: float = 2.0,
    prompt: str = "a red ball rolls to the right over grass",
    repeats: int = 5,
    check: bool = False,
) -> StartupReport:
    """Run `python -c "import torch"` and `reelm generate` in turns, in the environment of this process.

    Args:
        model: The bundled name, the folder or the hub id of the model.
        seconds: The length of the clip in seconds.
        prompt: The prompt of the clip.
        repeats: The number of measured rounds.
        check: Whether to run one round without a warm-up and a clip of one frame, which tests whether everything runs.

    Raises:
        ReelmError: An argument is out of its range, there is no such model, or a process fails.
    """
    require(repeats >= 1, "repeats", "must be at least 1", repeats)
    check_lengths(read_config(find_checkpoint(model)), seconds, None)
    if check:
        repeats, seconds = 1, 0.1
    with tempfile.TemporaryDirectory() as folder:
        words = ["generate", prompt, "--model", str(model), "--seconds", str(seconds), "--overwrite"]
        words += ["-o", str(Path(folder) / "clip.mp4")]
        commands = {BASE: ["-c", "import torch"], "reelm generate": ["-c", SCRIPT, *words]}
        rounds = measure_processes(commands, repeats, warm_up=not check)
    return StartupReport(
        model=str(model), seconds=seconds, repeats=repeats, device=machine_name(torch.device("cpu")),
        versions=library_versions(), rows=[_row(name, rounds) for name in commands],
    )  # fmt: skip


def measure_processes(
    commands: Mapping[str, Sequence[str]], repeats: int, *, warm_up: bool = True
) -> list[dict[str, tuple[float, float]]]:
    """Run Python with the words of each command, in rounds, and return (CPU seconds, seconds) by name for each round.

    Raises:
        ReelmError: A process fails; the message has the last line that it wrote to stderr.
    """
    rounds = []
    for _ in progress(range(repeats + warm_up), "benchmark", unit="round"):
        rounds.append({name: _run(name, words) for name, words in commands.items()})
    return rounds[int(warm_up) :]


def _run(name: str, words: Sequence[str]) -> tuple[float, float]:
    # Byte code is kept, as it is by default and in every installed package.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as stderr:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=stderr, env=environment
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        stderr.seek(0)
        lines = stderr.read().decode(errors="replace").split("\n")
    if process.returncode:
        said = next((line for line in reversed(lines) if line.strip()), "nothing on stderr")
        raise ReelmError(f"{name}: must end with code 0, got {process.returncode}: {said}")
    return usage.ru_utime + usage.ru_stime, seconds


def _row(name: str, rounds: list[dict[str, tuple[float, float]]]) -> dict[str, Any]:
    return {
        "row": name,
        "cpu_seconds": statistics.median(times[name][0] for times in rounds),
        "seconds": statistics.median(times[name][1] for times in rounds),
        **ratios_of([times[name][0] for times in rounds], [times[BASE][0] for times in rounds]),
    }
