"""Sampling speed and memory of this checkout against an older commit, in turns, in one run: `make compare REV=00d48e3`.

With `CLIP=film.mp4` the speed of reading that file is compared in their place, in frames per second.

Each checkout has a process of its own, on one thread, and the two draw the same clips by turns, a clip each, whichever
was second before being first. A ratio is the median over the rounds of this checkout's tokens per second divided by the
older one's in the same round, so that what slows the machine for a while slows both.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "a red ball rolls to the right over grass"
# The options of `generate` by the name of the case; the default decoder comes first, as it has the peak memory.
CASES: dict[str, dict[str, object]] = {
    "default decoder": {"prompt": PROMPT},
    "sequential": {"prompt": PROMPT, "decoder": "sequential"},
    "batch 8": {"prompt": [PROMPT] * 8},
}
WORKER = """
import json, resource, sys, time, torch, reelm
torch.set_num_threads(1)
generator = reelm.VideoGenerator.from_pretrained("world", device="cpu")
for line in sys.stdin:
    options = json.loads(line)
    if "clip" in options:
        began = time.perf_counter()
        speed = len(reelm.Video.load(options["clip"]).frames) / (time.perf_counter() - began)
    else:
        found = generator.generate(seconds=2.0, **options)
        speed = (found[0] if isinstance(found, list) else found).stats["tokens_per_second"]
    print(json.dumps([speed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]), flush=True)
"""


class Worker:
    """A process that draws clips with the code of one checkout, which is the folder `reelm` inside `parent`."""

    def __init__(self, parent: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(parent), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=parent,
            env=environment,
        )  # fmt: skip

    def draw(self, options: dict[str, object]) -> tuple[float, float]:
        """Return the tokens or frames per second of a call, and the peak memory of the process so far, in KiB."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(options) + "\n")
        self._process.stdin.flush()
        speed, peak = json.loads(self._process.stdout.readline())
        return speed, peak

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def compare(cases: dict[str, dict[str, object]], old: Worker, new: Worker, rounds: int) -> None:
    """Print the median ratio of each case, and the quartiles of its rounds; a first round warms up and is left out."""
    print(f"{'':18}{'ratio':>8}{'quartiles':>16}{'per second':>12}{'older':>8}{'peak memory':>14}")
    for name, case in cases.items():
        ours, theirs, peak = [], [], 1.0
        for number in range(rounds + 1):
            options, prompt = dict(case), case.get("prompt")
            if prompt is not None:
                clips = len(prompt) if isinstance(prompt, list) else 1
                seeds = [number * clips + clip for clip in range(clips)]
                options["seed"] = seeds if isinstance(prompt, list) else seeds[0]
            turns = {worker: worker.draw(options) for worker in ((new, old) if number % 2 else (old, new))}
            ours.append(turns[new][0])
            theirs.append(turns[old][0])
            peak = turns[new][1] / turns[old][1]
        ratios = [mine / other for mine, other in zip(ours[1:], theirs[1:], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        speeds = f"{statistics.median(ours):12.0f}{statistics.median(theirs):8.0f}"
        print(f"{name:18}{middle:8.3f}{low:9.3f} {high:.3f}{speeds}{peak:14.3f}", flush=True)


def main() -> None:
    """Compare this checkout with the commit that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clip", type=Path)
    options = parser.parse_args()
    reading: dict[str, dict[str, object]] = {"reading": {"clip": str(options.clip and options.clip.resolve())}}
    cases = CASES if options.clip is None else reading
    with tempfile.TemporaryDirectory() as folder:
        old, new = Path(folder) / "old", Path(folder) / "new"
        for place in (old, new):
            place.mkdir()
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(old / "reelm"), options.revision], cwd=ROOT,
                       check=True)  # fmt: skip
        (new / "reelm").symlink_to(ROOT)
        try:
            workers = Worker(old), Worker(new)
            compare(cases, *workers, options.rounds)
            for worker in workers:
                worker.close()
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(old / "reelm")], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
