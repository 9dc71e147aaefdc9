"""Prompts, clips and shards on Ray become what one process makes of them, also where a process is killed.

REELM_PROMPTS=200 pytest -m slow tests/test_on_ray.py -s
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from reelm.core.ray_pool import RayOptions
from reelm.data.encode import Windows
from reelm.data.prepare import prepare
from reelm.data.recode import PrepareConfig
from reelm.data.token_recipes import encode_clips
from reelm.generation.prompt_file import RESULTS, draw_prompts
from reelm.media.writer import write_clip

PROMPTS = int(os.environ.get("REELM_PROMPTS", 80))
BAD = {3: '{"prompt": 7}', 11: "not JSON", 17: '{"prompt": "a star", "seconds": -1}', 23: "[]", 29: '{"sead": 1}'}
WORDS = ("a red ball", "a blue ring", "a yellow star", "a green square")
TWO = RayOptions(workers=2)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_on_this_machine")]


def kill_a_worker_half_way(results, rows):
    """Kill one of the processes that draw when half of the rows have results."""
    while not results.exists() or results.read_bytes().count(b"\n") < rows / 2:
        time.sleep(0.01)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::MapWorker" in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)
                return
        except OSError:
            continue
    raise AssertionError("no process of Ray was found")


def test_a_file_of_prompts_survives_a_killed_worker(debug_generator, tmp_path):
    rows = [{"prompt": WORDS[n % 4], "num_frames": (5, 9)[n % 3 == 0]} for n in range(PROMPTS)]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(BAD.get(n, json.dumps(row)) + "\n" for n, row in enumerate(rows)))
    here, there = tmp_path / "here", tmp_path / "there"
    options = {"seed": 5, "batch_size": 4, "guidance_scale": 1.0, "save_state": True}
    draw_prompts(debug_generator, prompts, here, **options)
    killer = threading.Thread(target=kill_a_worker_half_way, args=(there / RESULTS, PROMPTS))
    killer.start()
    report = draw_prompts(debug_generator, prompts, there, ray=TWO, **options)
    killer.join()
    found, wanted = (
        sorted(map(json.loads, (folder / RESULTS).read_text().splitlines()), key=lambda entry: entry["row"])
        for folder in (there, here)
    )
    assert found == wanted, "one result a row, with the same tokens, seeds and reasons"
    assert (report.rows, report.known, sorted(report.refused)) == (PROMPTS, 0, sorted(BAD))
    assert sum("tokens_sha256" in entry for entry in found) == PROMPTS - len(BAD)
    for path in here.glob("*.safetensors"):
        assert (there / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in there.glob("*.mp4")} == {path.name for path in here.glob("*.mp4")}
    assert draw_prompts(debug_generator, prompts, there, ray=TWO, **options).known == PROMPTS
    next(iter(there.glob("*.mp4"))).unlink()
    assert draw_prompts(debug_generator, prompts, there, ray=TWO, **options).known == PROMPTS - 1


def test_a_signal_ends_the_command_and_the_same_one_goes_on(debug_checkpoint, tmp_path):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "clips"
    prompts.write_text("".join(json.dumps({"prompt": WORDS[n % 4], "num_frames": 201}) + "\n" for n in range(40)))
    words = ["generate", "--prompts", prompts, "--out", out, "--engine", "ray", "--batch-size", 2, "--model",
             debug_checkpoint, "--device", "cpu"]  # fmt: skip
    script = [sys.executable, "-c", "from reelm.cli import script; script()", *map(str, words)]
    with subprocess.Popen(script, stderr=subprocess.PIPE, text=True) as process:
        while not (out / RESULTS).exists() or not (out / RESULTS).read_bytes():
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM, process.stderr.read()
    known = len((out / RESULTS).read_text().splitlines())
    told = subprocess.run([*script, "--json"], capture_output=True, text=True, check=True).stdout
    assert 0 < known < 40 and json.loads(told)["known"] == known
    refused = subprocess.run([*script, "--address", "127.0.0.1:1"], capture_output=True, text=True, check=False)
    assert refused.returncode == 0, "nothing is left to do"
    (out / RESULTS).unlink()
    refused = subprocess.run([*script, "--address", "127.0.0.1:1"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "address: must be that of a Ray cluster, got '127.0.0.1:1'" in refused.stderr


def test_clips_become_the_same_shards_and_tokens(debug_checkpoint, tmp_path, monkeypatch):
    (tmp_path / "clips").mkdir()
    for number in range(9):
        frames = np.random.default_rng(number).integers(0, 255, (16, 32, 48, 3), dtype="uint8")
        write_clip(tmp_path / "clips" / f"{number}.mp4", frames, fps=8)
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no clip")
    config, nines = PrepareConfig(height=32, width=48, held_out_seconds=0.25, clips_per_shard=3), Windows(num_frames=9)
    monkeypatch.chdir(tmp_path)
    alone = prepare(Path("clips"), Path("alone"), config, workers=0)
    spread = prepare(Path("clips"), Path("spread"), config, ray=TWO)
    assert (spread.skipped, spread.fps) == (alone.skipped, alone.fps) and len(spread.skipped) == 1
    names = sorted(path.name for path in Path("alone").iterdir() if path.suffix in (".tar", ".json"))
    assert names == sorted(path.name for path in Path("spread").iterdir() if path.suffix in (".tar", ".json"))
    for name in names:
        assert (Path("spread") / name).read_bytes() == (Path("alone") / name).read_bytes(), name
    one = encode_clips(Path("alone"), debug_checkpoint, Path("tokens"), device="cpu", windows=nines)
    other = encode_clips(Path("spread"), debug_checkpoint, Path("more"), device="cpu", windows=nines, ray=TWO)
    assert one.clips == other.clips > 0
    for path in Path("tokens").glob("*.safetensors"):
        assert (Path("more") / path.name).read_bytes() == path.read_bytes()
