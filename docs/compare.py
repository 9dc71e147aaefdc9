"""Sampling speed and memory of this checkout against an older commit, in turns, in one run: `make compare REV=00d48e3`.

Each measurement is a process of its own that runs the benchmark of its checkout, without baselines, on one thread. The
two checkouts take turns; a ratio is the median over the rounds of this checkout's figure divided by the older one's of
the same round, so that what slows the machine for a while slows both.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CASES = {"default decoder": "reelm", "sequential": "reelm sequential", "batch 8": "8 clips"}  # its row of the benchmark
MEASURE = """
import json, sys, torch, reelm
torch.set_num_threads(1)
generator = reelm.VideoGenerator.from_pretrained("world", device="cpu")
if hasattr(reelm, "benchmark"):
    run = lambda **options: reelm.benchmark(generator, baselines=False, **options)
else:  # of older commits
    run = lambda **options: generator.benchmark(peers=False, **options)
report = run(seconds=2.0, repeats=3)
rows = {row["row"]: row["tokens_per_second"] for row in report["rows"]}
peak = report["peak_memory_bytes"]  # of the default decoder alone
batches = run(seconds=2.0, repeats=2, sweep="batch", batch=8)["batches"]
rows["8 clips"] = batches[-1]["tokens_per_second"]
print(json.dumps({"rows": rows, "peak": peak}))
"""


@dataclass(frozen=True)
class Run:
    """What one process measured: the tokens per second of each row, and the peak memory in bytes."""

    rows: dict[str, float]
    peak: float


def measure(checkout: Path) -> Run:
    """Run the benchmark of a checkout in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE]
    done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, check=True)
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def compare(old: Path, new: Path, rounds: int) -> None:
    """Print the ratios of each round, and their medians."""
    print(f"{'round':8}{'peak memory':>14}" + "".join(f"{name:>18}" for name in CASES), flush=True)
    lines = []
    for number in range(rounds):
        ours, theirs = measure(new), measure(old)
        lines.append([ours.peak / theirs.peak, *(ours.rows[row] / theirs.rows[row] for row in CASES.values())])
        print(_line(str(number + 1), lines[-1]), flush=True)
    print(_line("median", [statistics.median(column) for column in zip(*lines, strict=True)]))


def _line(name: str, ratios: list[float]) -> str:
    return f"{name:8}{ratios[0]:14.3f}" + "".join(f"{ratio:18.3f}" for ratio in ratios[1:])


def main() -> None:
    """Compare this checkout with the commit that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        old, new = Path(folder) / "old", Path(folder) / "new"
        for place in (old, new):
            place.mkdir()
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(old / "reelm"), options.revision], cwd=ROOT,
                       check=True)  # fmt: skip
        (new / "reelm").symlink_to(ROOT)
        try:
            compare(old, new, options.rounds)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(old / "reelm")], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
