"""SIGINT and SIGTERM at random moments of real processes: nothing that was drawn, prepared or trained is lost.

REELM_MOMENTS=100 pytest -m slow tests/test_random_interruptions.py     # so many moments for each command
"""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from reelm.generation.video import Video
from reelm.media.writer import write_clip
from reelm.training.state_folders import newest_state

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("empty_folder")]
MOMENTS = int(os.environ.get("REELM_MOMENTS", "6"))
REELM = [sys.executable, "-c", "from reelm.cli import script; script()"]


def start(words):
    """A process of a command, in a process group of its own, as a shell starts it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*REELM, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip


def interrupt(words, moment, number):
    """Run a command and send it a signal after `moment` seconds; return its code and messages."""
    process = start(words)
    time.sleep(moment)
    if process.poll() is None:
        # Ctrl-C in a terminal goes to all processes of a command, `kill` to one.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=600)
    assert "Traceback" not in err and "ignored" not in err, err
    assert process.returncode in (0, 128 + number), (process.returncode, err)
    return process.returncode, err


def moments(seconds, seed):
    """Moments up to so many seconds after the start of Python, with a signal each."""
    rng = random.Random(seed)
    return [(rng.uniform(0.1, seconds), rng.choice([signal.SIGINT, signal.SIGTERM])) for _ in range(MOMENTS)]


def timed(words):
    began, process = time.monotonic(), start(words)
    _, err = process.communicate()
    assert process.returncode == 0, err
    return time.monotonic() - began


def go_on(run, err):
    """Run the commands that the messages name."""
    found = [shlex.split(line.split("reelm ", 1)[1]) for line in err.splitlines() if ": reelm " in line]
    for words in found:
        assert run(*words)[0] == 0
    return found


@pytest.mark.parametrize("command", ["generate", "batch", "continue", "stream"])
def test_what_was_drawn_goes_on(command, run, debug_checkpoint, debug_generator):
    debug = ["--model", debug_checkpoint, "--device", "cpu"]
    given = debug_generator.generate("a red ball", num_frames=9, seed=5)
    given.save("given.mkv")
    frames = 8 * 8 + 1
    length = ["--seed", 5, "--num-frames", frames]
    words = {
        "generate": ["generate", "a red ball", *length, "-o", "a.mkv"],
        "batch": ["generate", "a red ball", *length, "--num-videos-per-prompt", 3, "--batch-size", 2, "-o", "a.mkv"],
        "continue": ["continue", "given.mkv", "--num-frames", frames - 9, "-o", "a.mkv"],
        "stream": ["stream", "a red ball", *length, "-o", "a.mkv"],
    }[command]
    wanted = [debug_generator.generate("a red ball", num_frames=frames, seed=5)]
    if command == "batch":
        wanted = debug_generator.generate("a red ball", num_frames=frames, seed=5, num_videos_per_prompt=3)
    seconds, went_on = timed([*words, "--overwrite", *debug]), 0
    for moment, number in moments(seconds, command):
        for path in Path().glob("a*"):
            path.unlink()
        code, err = interrupt([*words, "--overwrite", *debug], moment, number)
        sessions = sorted(path.name for path in Path().glob("a*.session.safetensors"))
        left = {path.name for path in Path().iterdir()} - {"given.mkv", *sessions}
        assert left <= {"a.mkv", "a-1.mkv", "a-2.mkv", "a-3.mkv"}, left
        if command == "stream" and code and Path("a.mkv").exists():
            part = Video.load("a.mkv")
            assert np.array_equal(part.frames, wanted[0].frames[: len(part.frames)])
            Path("a.mkv").rename("given-part.mkv")
            if len(part.frames) < frames:
                assert run("continue", "given-part.mkv", "-o", "a.mkv", *debug)[0] == 0
            else:
                Path("given-part.mkv").rename("a.mkv")
            Path("given-part.mkv").unlink(missing_ok=True)
            went_on += 1
        done = go_on(run, err)
        assert len(done) == len(sessions), (sessions, err)
        went_on += len(done)
        for path in Path().glob("a*.mkv"):
            number_of = int(path.stem[2:] or 1) - 1 if "-" in path.stem else 0
            assert np.array_equal(Video.load(path).tokens, wanted[number_of].tokens), (moment, path)
    print(f"{command}: {MOMENTS} moments in {seconds:.1f} s, {went_on} clips went on")


def made(folder):
    """What a folder of shards or of a run holds that must not depend on interruptions."""
    names = ("*.tar", "*.json", "*.safetensors")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in names for path in sorted(Path(folder).rglob(name)) if path.name != "recipe.json"
    }  # fmt: skip


@pytest.mark.parametrize("command", ["prepare", "tokenizer", "lm"])
def test_what_was_prepared_or_trained_goes_on(command, run):
    Path("clips").mkdir()
    for number in range(6):
        frames = np.random.default_rng(number).integers(0, 256, (20, 4, 6, 3), np.uint8).repeat(8, 1).repeat(8, 2)
        write_clip(Path(f"clips/{number}.mp4"), frames, 8)
    prepare = ["prepare", "clips", "--height", 32, "--width", 48, "--workers", 2]
    tokenizer = [
        *(
            "train",
            "tokenizer",
            "--data",
            "shards",
            "--height",
            16,
            "--width",
            32,
            "--batch-size",
            1,
            "--device",
            "cpu",
        ),
        *("--num-frames", 5, "--train.steps", 12, "--train.report-steps", 1, "--train.warmup", 1),
        *("--model.encoder-width", 8, "--model.decoder-widths", 8, "--model.decoder-depth", 1),
    ]
    lm = [
        *("train", "lm", "--data", "shards", "--tokenizer", "tok", "--windows.num-frames", 5, "--device", "cpu"),
        *("--model.width", 16, "--model.depth", 1, "--model.heads", 2, "--model.kv-heads", 1, "--model.head-dim", 16),
        *("--model.hidden", 16, "--model.neighbour-dim", 4, "--batch-tokens", 64, "--train.steps", 12),
    ]
    words = {"prepare": prepare, "tokenizer": tokenizer, "lm": lm}[command]
    if command != "prepare":
        assert run(*prepare, "--out", "shards")[0] == 0
    if command == "lm":
        assert run(*tokenizer, "--out", "tok")[0] == 0
    seconds, stopped = timed([*words, "--out", "whole"]), 0
    for index, (moment, number) in enumerate(moments(seconds, command)):
        out = f"out-{index}"
        code, _ = interrupt([*words, "--out", out], moment, number)
        stopped += code != 0
        resume = ["--resume"] if newest_state(Path(out)) else []
        found = run(*words, "--out", out, *resume)
        assert found[0] == 0, found
        assert made(out).keys() == made("whole").keys(), moment
        for name, content in made("whole").items():
            if name.endswith((".tar", "tokenizer.safetensors", "lm.safetensors")):
                assert made(out)[name] == content, (moment, name)
    print(f"{command}: {stopped} of {MOMENTS} moments in {seconds:.1f} s stopped it")
