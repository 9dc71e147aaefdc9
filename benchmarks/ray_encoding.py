"""Encode clips with the plain command on one core and with Ray on all cores, in turns.

    pip install -c constraints.txt -e ".[ray]"
    .venv/bin/python benchmarks/ray_encoding.py --clips 2000 --rounds 3

Prints the clips a second and a core of each run, from the start of the command to its end and, for Ray, from its first
shard, and the ratio of their medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from reelm.data.prepare import prepare
from reelm.data.recode import PrepareConfig
from reelm.media.writer import write_clip
from reelm.world.render import render
from reelm.world.scene import FPS, sample_scene

SCRIPT = "from reelm.cli import script; script()"


def make_shards(folder: Path, clips: int, frames: int) -> Path:
    """Return a folder of shards of rendered clips."""
    (folder / "clips").mkdir()
    for number in range(clips):
        pictures = render([sample_scene(1, number, split="train")], frames, height=64, width=64)[0]
        write_clip(folder / "clips" / f"{number:05d}.mp4", np.asarray(pictures), FPS)
    config = PrepareConfig(height=64, width=64, fps=FPS, held_out_seconds=0, clips_per_shard=50)
    prepare(folder / "clips", folder / "shards", config)
    return folder / "shards"


def seconds_of(shards: Path, tokenizer: str, out: Path, *, engine: str, frames: int) -> tuple[float, float]:
    """Return the seconds of a command that encodes shards, and those from its first token shard to its end."""
    words = ["encode", str(shards), "--tokenizer", tokenizer, "--out", str(out), "--engine", engine]
    began = time.monotonic()
    command = [sys.executable, "-c", SCRIPT, *words, "--num-frames", str(frames), "--device", "cpu"]
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not any(out.glob("*.safetensors")):
            time.sleep(0.02)
        first = time.monotonic()
        assert process.wait() == 0
    return time.monotonic() - began, time.monotonic() - first


def main() -> None:
    """Measure, and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokenizer", default="checkpoints/world")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    rates: dict[str, list[float]] = {"process": [], "ray": [], "ray_from_first": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = make_shards(folder, options.clips, 1 + options.seconds * FPS)
        count = len([*shards.glob("clips-*.tar")])
        for number in range(options.rounds):
            alone, _ = seconds_of(shards, options.tokenizer, folder / f"p{number}", engine="process", frames=17)
            whole, later = seconds_of(shards, options.tokenizer, folder / f"r{number}", engine="ray", frames=17)
            rates["process"].append(options.clips / alone)
            rates["ray"].append(options.clips / whole / cores)
            rates["ray_from_first"].append(options.clips * (1 - 1 / count) / later / cores)
            print({name: round(values[-1], 2) for name, values in rates.items()}, flush=True)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {name: middle[name] / middle["process"] for name in ("ray", "ray_from_first")}
    print(json.dumps({"cores": cores, "clips_a_second_and_core": middle, "over_process": ratios}))


if __name__ == "__main__":
    main()
