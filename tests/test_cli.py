"""The command line, in process: every command end to end on tiny models, and its frozen options."""

import dataclasses
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

import reelm
from reelm import cli
from reelm.bench.report import BenchmarkReport
from reelm.commands import clips
from reelm.commands.dispatch import COMMANDS, parse
from reelm.core.checkpoint import read_json, save_json
from reelm.generation.session import SessionState
from reelm.generation.video import Video
from reelm.media.fitting import Fit
from reelm.media.writer import write_clip
from reelm.sampling.engine import Engine
from reelm.sampling.plan import SamplingConfig
from reelm.tests.folders import names
from reelm.tests.media.files import numbered, with_sound, write_video
from reelm.training.lm_training import DERIVED, LMTraining
from reelm.training.tokenizer_training import TokenizerTraining

MODEL = ["--model", "--device", "--dtype", "--weights", "--cache", "--json"]
CLIP = [
    "--seconds",
    "--num-frames",
    "--seed",
    "--negative-prompt",
    "--then",
    "--keys",
    "--decoder",
    "--block-size",
    "-o",
    "--output",
    "--overwrite",
    "--processes",
]
SAMPLING = ["--guidance-scale", "--guidance", "--temperature", "--top-k", "--top-p", "--min-p"]
TRAIN = [
    *("--train.steps", "--train.learning-rate", "--train.optimizer", "--train.warmup", "--train.weight-decay"),
    *("--train.clip", "--train.ema", "--train.spike", "--train.most-left-out", "--train.parts"),
    *("--train.shards", "--train.tensor", "--train.recompute", "--train.compile", "--train.keep", "--train.precision"),
    *("--train.checkpoint-minutes", "--train.report-steps"),
]
BATCH = ["--engine", "--address", "--workers"]
FROZEN = {
    "generate": [
        *(*MODEL, *CLIP, *SAMPLING, "--prompts", "--out"),
        *("--num-videos-per-prompt", "--batch-size", "--save-state", *BATCH),
    ],
    "continue": [
        *MODEL,
        *CLIP,
        *SAMPLING,
        "--prompt",
        "--num-videos-per-prompt",
        "--fit",
        "--keep-source",
        "--detail",
        "--no-detail",
        "--save-state",
    ],
    "stream": [*MODEL, *CLIP, *SAMPLING],
    "decode": [*MODEL, "--output", "-o", "--overwrite"],
    "play": [
        *(*MODEL, "--clip", "--seed", "--seconds", "--keys", "--headless", "--record", "--overwrite", "--temperature"),
        *("--ahead", "--no-ahead"),
    ],
    "bench": [
        *(*MODEL, "--preset", "--seconds", "--batch", "--guidance-scale", "--temperature", "--repeats", "--decoder"),
        *("--guidance", "--block-size", "--prompt", "--baselines", "--no-baselines", "--sweep", "--check", "--plot"),
        *("--against", "--threads", "--clip", "--training"),
    ],
    "bench tokenizer": [
        *("--preset", "--compression", "--tokenizer", "--num-frames", "--height", "--width", "--batch", "--repeats"),
        *("--device", "--dtype", "--baselines", "--no-baselines", "--check", "--json"),
    ],
    "bench blocks": [*MODEL, "--clips", "--seconds", "--prompt", "--repeats", "--keep", "--no-keep", "--check"],
    "bench startup": ["--model", "--seconds", "--prompt", "--repeats", "--check", "--json"],
    "bench kernels": ["--check", "--rounds", "--only"],
    "evaluate": [
        *(*MODEL, "--prompts", "--two-objects", "--clips", "--seed", "--batch", "--guidance-scale", "--decoder"),
        *("--guidance", "--block-size", "--contact-sheet"),
    ],
    "evaluate tokenizer": [
        *(
            "--tokenizer",
            "--split",
            "--max-frames",
            "--fps",
            "--contact-sheet",
            "--device",
            "--json",
            "--lpips-weights",
        ),
        "--fvd-weights",
    ],
    "evaluate play": [
        *(*MODEL, "--recordings", "--save-recordings", "--plays", "--samples", "--seed"),
        *("--minutes", "--contact-sheet"),
    ],
    "evaluate model": [
        *(
            *MODEL,
            "--split",
            "--clips",
            "--max-frames",
            "--fps",
            "--num-frames",
            "--seed",
            "--fit",
            "--fvd-weights",
            "--out",
        ),
    ],
    "serve": ["--model", "--host", "--port", "--out", "--token", "--device"],
    "info": [*MODEL, "--words", "--plan", "--preset", "--seconds", "--batch"],
    "prepare": [
        *("--out", "--rank", "--world-size", "--height", "--width", "--fit", "--fps", "--max-frames"),
        *("--held-out-seconds", "--clips-per-shard", *BATCH),
    ],
    "train tokenizer": [
        *(
            "--out",
            "--resume",
            "--config",
            "--device",
            "--data",
            "--fps",
            "--preset",
            "--compression",
            "--init",
            "--decoder-of",
        ),
        *("--batch-size", "--num-frames", "--height", "--width", "--moving-weight", "--structure-weight"),
        *("--adversarial-weight", "--perceptual-weight", "--lpips-weights", "--seed", "--model.temporal"),
        *("--model.spatial", "--model.front", "--model.encoder-width", "--model.encoder-depth"),
        *("--model.encoder-spread", "--model.encoder-memory", "--model.decoder-widths"),
        *("--model.decoder-depth", "--model.decoder-memory", "--model.quantizer.kind", "--model.quantizer.levels"),
        *("--model.quantizer.codebook-size", "--model.quantizer.codebook-dim", "--model.quantizer.spread", *TRAIN),
    ],
    "encode": [
        *("--tokenizer", "--out", "--split", "--rank", "--world-size", "--device", "--num-frames", "--stride"),
        *("--height", "--width", "--crops", "--mirror", "--motion", "--seed", *BATCH),
    ],
    "convert": ["--tokenizer", "--height", "--width", "--latent-frames", "--compression"],
    "render": [
        *("--tokenizer", "--out", "--clips", "--num-frames", "--seed", "--height", "--width", "--device"),
    ],
    "train text": ["--out", "--data", "--captions", "--vocab-size", "--model-type"],
    "train lm": [
        *(
            "--out",
            "--resume",
            "--config",
            "--device",
            "--data",
            "--tokenizer",
            "--fps",
            "--text",
            "--init",
            "--name",
            *("--windows.num-frames", "--windows.stride", "--windows.height", "--windows.width", "--windows.crops"),
            *(
                "--windows.mirror",
                "--windows.motion",
                "--sampling.guidance-scale",
                "--sampling.guidance",
                "--model.guidance",
                "--sampling.temperature",
                "--sampling.top-k",
            ),
            *("--sampling.top-p", "--sampling.min-p", "--batch-tokens", "--drop-caption", "--token-noise"),
            *("--own-noise", "--key-guidance", "--guidance-temperature", "--store", "--lora-rank"),
        ),
        *("--seed", "--model.order", "--model.window", "--model.prefix", "--model.width", "--model.depth"),
        *("--model.heads", "--model.kv-heads", "--model.head-dim", "--model.hidden", "--model.neighbour-dim", *TRAIN),
    ],
}


pytestmark = pytest.mark.usefixtures("empty_folder")


# ---- what the commands are called


@pytest.mark.parametrize("command", COMMANDS)
def test_a_test_freezes_the_command_line(command, run):
    code, out, _ = run(*command.split(), "--help")
    rows = re.findall(r"^  (-.*?)(?:  .*)?$", out, re.MULTILINE)
    found = [name for row in rows for name in re.findall(r"(?<!\S)--?[a-z][\w.-]*", row)]
    assert code == 0
    assert sorted(found) == sorted(["-h", "--help", *FROZEN[command]])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_what_each_option_does_and_ends_with_an_example_that_parses(command, run):
    _, out, _ = run(*command.split(), "--help")
    entries = re.findall(r"^  (-\S.*(?:\n {8,}.*)*)", out, re.MULTILINE)
    assert len(entries) >= 2
    for entry in entries:
        text = re.split(r" {2,}|\n", entry, maxsplit=1)[1]
        assert len(text.split()) > 1 and text[-1] in ".)", entry
    example = out.splitlines()[-1].strip()
    words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', example)]
    assert words[: 1 + len(command.split())] == ["reelm", *command.split()]
    assert parse(command, words[1 + len(command.split()) :])


def test_the_contents_list_every_command(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(f"\n  {command} " in out for command in COMMANDS)
    assert out.splitlines()[-1].strip().startswith("reelm generate")
    assert run() == (0, out, "")
    _, below, _ = run("train", "--help")
    assert re.findall(r"^  ([a-z ]+?) {2,}", below, re.M) == ["train tokenizer", "train text", "train lm"]
    assert "  bench kernels  " in run("bench", "--help")[1]
    assert run("--version") == (0, f"reelm {reelm.__version__}\n", "")


def test_the_entry_point_ends_the_process_without_taking_python_down(tmp_path):
    """Teardown after an import of torch takes 0.4 s. What modules do at exit is done first, whatever signals come."""
    code = """
import atexit, signal, sys
from reelm.cli import script

class Last:
    def __del__(self):
        print("taken down")

last = Last()
atexit.register(print, "at exit")
atexit.register(lambda: [signal.raise_signal(number) for number in (signal.SIGINT, signal.SIGTERM)])
sys.argv[1:] = {}
script()
"""
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="reelm")
    assert entry.load() is cli.script
    for words, status, out in ((["--version"], 0, f"reelm {reelm.__version__}\n"), (["frobnicate"], 2, "")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(words)], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert (done.returncode, done.stdout) == (status, out + "at exit\n")


# A process for each command, split off one that has imported what they need: importing takes longer than they do.
EACH = """
import gc, os, sys
import reelm.bench.model_info
from reelm.cli import main

gc.freeze()  # what is imported stays as it is in every process, and is not gone through as one ends
codes = []
for words in (["--help"], ["generate", "--help"], ["info"], ["info", "--json"]):
    if os.fork() == 0:
        sys.exit(main(words))
    codes.append(os.waitstatus_to_exitcode(os.wait()[1]))
print(*codes, end="", file=sys.stderr)
"""


@pytest.mark.parametrize("unbuffered", ["", pytest.param("1", marks=pytest.mark.slow)])
def test_nothing_is_said_where_nobody_reads_on(unbuffered):
    """As in `reelm --help | head -1`, whether the pipe is found closed while printing or at the end."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        [sys.executable, "-c", EACH], stdout=writing, stderr=subprocess.PIPE, env=environment, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"141 141 141 141")


def test_pictures_are_fitted_by_the_names_of_the_library():  # of all options: tests/test_python_page.py
    assert get_args(get_args(get_type_hints(clips.Continue)["fit"])[0]) == get_args(Fit)


def test_a_recipe_without_options_is_the_library_s_own():
    words = ["--out", "x", "--data", "d", "--text", "t", "--tokenizer", "k"]
    tokenizer, lm = parse("train tokenizer", words[:2]), parse("train lm", words)
    assert dataclasses.asdict(tokenizer.recipe) == dataclasses.asdict(TokenizerTraining())
    options = dataclasses.asdict(lm.recipe)
    options["model"] |= dict.fromkeys(DERIVED, 7)
    assert options == dataclasses.asdict(LMTraining(model=LMTraining.__annotations__["model"](**options["model"])))


def test_a_sampling_option_is_the_model_s_own_unless_given():
    command = parse("generate", ["a red ball"])
    assert set(vars(command.sampling)) == {field.name for field in dataclasses.fields(SamplingConfig)}
    assert command.given_sampling() == {}
    command = parse("generate", ["a red ball", "--top-k", "None", "--temperature", "0"])
    assert command.given_sampling() == {"top_k": None, "temperature": 0.0}


# ---- generate, continue, stream


def test_generate_writes_the_clip_of_the_python_api_and_says_so_in_three_lines(run, debug, debug_generator):
    code, out, err = run("generate", "a red ball", "--seconds", 1, "--seed", 7, "--top-k", 5, *debug)
    assert (code, err) == (0, "")
    wrote, took, command = out.splitlines()
    assert wrote == "wrote a-red-ball.mp4: 9 frames 48x32 at 8 fps = 1.125 s, seed 7"
    assert re.fullmatch(r"took \S+ s: \S+ tokens/s, \S+ times realtime", took)
    video, wanted = Video.load("a-red-ball.mp4"), debug_generator.generate("a red ball", seconds=1, seed=7, top_k=5)
    assert np.array_equal(video.tokens, wanted.tokens)
    assert (video.prompt, video.seed, video.settings["top_k"]) == ("a red ball", 7, 5)

    code, out, _ = run(*command.removeprefix("continue with: reelm ").split(), "--device", "cpu")
    assert code == 0
    longer = Video.load("longer.mp4")
    assert np.array_equal(longer.tokens[:3], video.tokens)
    assert len(longer.frames) == 9 + 4 * 8
    assert out.splitlines()[0].startswith("wrote longer.mp4: 41 frames")
    assert "-o longer-2.mp4" in out


def test_generate_never_replaces_a_file_that_was_not_named(run, debug):
    words = ["generate", "A red, BALL!", "--num-frames", 1, *debug]
    Path("a-red-ball.mp4").write_text("mine")
    Path("a-red-ball-2.partial.mp4").write_text("what a killed stream left")
    assert run(*words)[0] == 0
    assert Path("a-red-ball.mp4").read_text() == "mine"
    assert Path("a-red-ball-3.mp4").is_file()
    code, _, err = run(*words, "-o", "a-red-ball.mp4")
    assert (code, Path("a-red-ball.mp4").read_text()) == (2, "mine")
    assert "output: must be a new file, or one that reelm wrote, unless overwrite is given" in err
    assert run(*words, "-o", "a-red-ball.mp4", "--overwrite")[0] == 0
    assert len(Video.load("a-red-ball.mp4").frames) == 1


@pytest.mark.parametrize("output", ["a.mp4", "./a.mp4", "link.mp4"])
def test_a_continuation_never_replaces_the_clip_that_it_continues(run, debug, output):
    assert run("generate", "a red ball", "--num-frames", 1, "-o", "a.mp4", *debug)[0] == 0
    Path("link.mp4").symlink_to("a.mp4")
    before = Path("a.mp4").read_bytes()
    code, _, err = run("continue", "a.mp4", "-o", output, "--overwrite", *debug)
    assert (code, Path("a.mp4").read_bytes()) == (2, before)
    assert err.startswith("reelm: error: output: must be another file than what it is made from")


def test_samples_of_one_prompt_are_numbered_files(run, debug, debug_generator):
    words = ["--num-frames", 5, "--seed", 3, "--num-videos-per-prompt", 2, "--guidance-scale", 1, *debug]
    code, out, _ = run("generate", "a red ball", "--output", "out.mkv", "--json", *words)
    values = json.loads(out)
    assert code == 0
    assert values["files"] == ["out-1.mkv", "out-2.mkv"] == names()
    wanted = debug_generator.generate("a red ball", num_frames=5, seed=3, num_videos_per_prompt=2, guidance_scale=1.0)
    for path, video in zip(values["files"], wanted, strict=True):
        assert np.array_equal(Video.load(path).frames, video.frames)  # mkv is exact
    assert values["tokens"] == 2 * 2 * debug_generator.parts.lm.layout.frame_size
    assert values["settings"]["guidance_scale"] == 1.0


def test_takes_of_a_continuation_are_numbered_files(run, debug, debug_generator):
    assert run("generate", "a red ball", "--num-frames", 5, "--seed", 3, *debug, "-o", "a.mkv")[0] == 0
    words = ["--num-frames", 4, "--num-videos-per-prompt", 2, "-o", "b.mkv", "--json"]
    code, out, _ = run("continue", "a.mkv", *words, *debug)
    assert (code, json.loads(out)["files"]) == (0, ["b-1.mkv", "b-2.mkv"])
    wanted = debug_generator.continue_clip("a.mkv", num_frames=4, num_videos_per_prompt=2)
    for path, video in zip(json.loads(out)["files"], wanted, strict=True):
        assert np.array_equal(Video.load(path).tokens, video.tokens)


def test_the_source_is_kept_on_request_and_lost_sound_is_said(run, debug):
    write_video("silent.mp4", numbered(9, 48, 96), fps=8)
    with_sound("a.mkv", "silent.mp4", codecs=("tta",))
    words = ["continue", "a.mkv", "--num-frames", 4, "--seed", 1]
    code, _, err = run(*words, *debug, "-o", "b.mp4")
    assert (code, Video.load("b.mp4").frames.shape) == (0, (13, 32, 48, 3))
    assert "a.mkv: its sound is not in the output; --keep-source (KeptSource in Python) keeps it\n" in err
    code, out, err = run(*words, *debug, "--keep-source", "-o", "c.mkv")
    assert code == 0
    assert out.startswith("wrote c.mkv: 13 frames 96x48 at 8 fps = 1.625 s, seed 1\n")
    assert out.splitlines()[-1].endswith("--keep-source -o longer.mp4")
    assert "sound" not in err
    assert np.array_equal(Video.load("c.mkv").frames[:9], Video.load("silent.mp4").frames)
    # Refused before anything is computed.
    code, _, err = run(*words, *debug, "--keep-source", "-o", "d.mp4")
    assert code == 2
    assert "'tta'; choose .mkv, got '.mp4'" in err
    code, _, err = run("continue", "e.session.safetensors", *debug, "--keep-source", "-o", "d.mp4")
    assert code == 2
    assert err.startswith("reelm: error: keep_source: must be given with a clip")


def test_continue_takes_any_clip(run, debug):
    write_clip("grey.mkv", np.full((12, 40, 80, 3), 90, np.uint8), 16.0)
    words = ["continue", "grey.mkv", "--num-frames", 4, "--fit", "pad", "--prompt", "a blue ring", *debug]
    assert run(*words, "--no-detail", "-o", "soft.mkv")[0] == 0
    code, out, err = run(*words)
    assert code == 0
    assert out.startswith("wrote grey-longer.mp4: ")
    assert len(err.splitlines()) == 1  # how it was made to fit
    video, soft = Video.load("grey-longer.mp4"), Video.load("soft.mkv")
    assert (video.settings.get("detail"), soft.settings.get("detail")) == (True, True)
    assert video.prompt == "a blue ring"
    assert len(video.frames) > 4


def test_stream_writes_the_clip_that_generate_makes_with_its_tokens(run, debug, debug_generator):
    code, out, err = run("stream", "a red ball", "--seconds", 1, "--seed", 7, "--min-p", 0.1, *debug)
    assert code == 0
    assert err == "writing a-red-ball.partial.mp4; Ctrl-C ends it\n"
    assert out.splitlines()[0] == "wrote a-red-ball.mp4: 9 frames 48x32 at 8 fps = 1.125 s, seed 7"
    assert names() == ["a-red-ball.mp4"]
    video, wanted = Video.load("a-red-ball.mp4"), debug_generator.generate("a red ball", seconds=1, seed=7, min_p=0.1)
    assert np.array_equal(video.tokens, wanted.tokens)
    assert (video.prompt, video.seed, video.settings) == (wanted.prompt, wanted.seed, wanted.settings)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stream_that_is_interrupted_is_a_whole_clip(number, code, run, debug, debug_generator, monkeypatch):
    step, drawn = Engine.step, []

    def interrupted(self):
        if len(drawn) == 2:  # a step may complete no latent frame
            drawn.append(None)
            os.kill(os.getpid(), number)
        frames = step(self)
        drawn.extend(frames)
        return frames

    monkeypatch.setattr(Engine, "step", interrupted)
    found = run("stream", "a red ball", "--seed", 7, "-o", "out.mkv", *debug)
    assert found[0] == code
    # The third latent frame may have been sampled ahead, when the first two were not yet written.
    count = int(found[2].splitlines()[1].split(" holds ")[1].split()[0])
    assert count in (5, 9)
    assert found[2].splitlines()[1] == f"reelm: interrupted; out.mkv holds {count} frames = {count / 8:.4g} s"
    assert names() == ["out.mkv"]
    monkeypatch.setattr(Engine, "step", step)
    wanted = debug_generator.generate("a red ball", num_frames=count, seed=7)
    video = Video.load("out.mkv")
    assert np.array_equal(video.frames, wanted.frames)
    assert np.array_equal(video.tokens, wanted.tokens)


def test_ctrl_c_while_generating_leaves_nothing(run, debug, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "step", interrupted)
    code, out, err = run("generate", "a red ball", "--seed", 7, *debug)
    assert (code, out) == (130, "")
    assert err == "the same command with --seed 7 makes the same clip again\nreelm: interrupted\n"
    assert names() == []


def test_tokens_outlive_a_clip_that_cannot_be_written(run, debug, debug_generator, monkeypatch):
    def full(self, path, overwrite):
        raise OSError(28, "No space left on device")

    Path("a-red-ball.session.safetensors").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(Video, "save", full)
        code, out, err = run("generate", "a red ball", "--num-frames", 5, "--seed", 41, *debug)
    saved = ["a-red-ball.session-2.safetensors", *map(str, debug), "-o", "a-red-ball.mp4"]
    said = f"the tokens are safe: reelm decode {shlex.join(saved)}"
    assert (code, out, err) == (2, "", f"{said}\nreelm: error: [Errno 28] No space left on device\n")
    assert Path("a-red-ball.session.safetensors").read_text() == "mine"
    code, out, _ = run("decode", "a-red-ball.session-2.safetensors", "-o", "saved.mkv", *debug)
    assert code == 0
    assert out == "wrote saved.mkv: 5 frames 48x32 at 8 fps = 0.625 s, seed 41\n"
    wanted = debug_generator.generate("a red ball", num_frames=5, seed=41)
    video = Video.load("saved.mkv")
    assert np.array_equal(video.frames, wanted.frames)
    assert np.array_equal(video.tokens, wanted.tokens)
    # And where not even the tokens can be written.
    monkeypatch.setattr(SessionState, "save", full)
    monkeypatch.setattr(Video, "save", full)
    code, _, err = run("generate", "a red ball", "--num-frames", 1, "--seed", 41, *debug)
    assert code == 2
    assert "the same command with --seed 41 makes the same clip again" in err


def test_a_session_is_kept_where_it_is_wanted_and_continued(run, debug):
    words = ["--num-frames", 5, "--seed", 3, *debug]
    assert run("generate", "a red ball", *words, "-o", "a.mp4")[0] == 0
    assert names() == ["a.mp4"]
    code, out, _ = run("generate", "a red ball", *words, "-o", "a.mp4", "--save-state", "--json")
    assert (code, json.loads(out)["files"]) == (0, ["a.mp4", "a.session.safetensors"])
    for source in ("a.mp4", "a.session.safetensors"):
        assert run("continue", source, "--num-frames", 4, *debug, "-o", f"{source}-longer.mkv")[0] == 0
    both = [Video.load(f"{source}-longer.mkv").tokens for source in ("a.mp4", "a.session.safetensors")]
    assert np.array_equal(*both)
    assert run("decode", "nothing.safetensors", *debug)[2].startswith(
        "reelm: error: session: must be a file that exists"
    )


def test_a_prompt_that_changes(run, debug, debug_generator):
    words = ["--num-frames", 13, "--seed", 3, *debug]
    assert run("generate", "a red ball", "--then", "0.6: a blue ring spins", *words, "-o", "a.mkv")[0] == 0
    assert run("stream", "a red ball", "--then", "0.6: a blue ring spins", *words, "-o", "b.mkv")[0] == 0
    wanted = debug_generator.generate([(0, "a red ball"), (0.6, "a blue ring spins")], num_frames=13, seed=3)
    for path in ("a.mkv", "b.mkv"):
        video = Video.load(path)
        assert np.array_equal(video.tokens, wanted.tokens)
        assert (video.prompt, video.settings) == ("a blue ring spins", wanted.settings)
    for bad in ("a blue ring", "x: a blue ring"):
        assert "then: must be like '4: a blue ring spins'" in run("generate", "a red ball", "--then", bad, *words)[2]


# ---- bench, evaluate, info


def test_bench_prints_tables_and_then_json(run, debug):
    words = ["--seconds", 0.1, "--batch", 2, "--guidance-scale", 1, "--repeats", 1, "--no-baselines", *debug]
    code, out, err = run("bench", *words)
    assert (code, err) == (0, "")
    report = json.loads(out.splitlines()[-1])
    assert (report["batch"], report["guidance_scale"]) == (2, 1.0)
    assert report["tokens_per_second"] > 0
    assert [row["mismatching_tokens"] for row in report["rows"]] == [0, 0, 0]
    assert len(out.splitlines()) == len(report) - 1 + 1 + 1 + len(report["rows"]) + 1
    code, out, _ = run("bench", "--check", "--json", "--no-baselines", "--plot", "rows.png", *debug)
    assert code == 0
    assert list(json.loads(out)) == list(report)
    assert Path("rows.png").read_bytes().startswith(b"\x89PNG")
    assert "plot: must end in .png" in run("bench", "--plot", "rows.pdf", *debug)[2]


def test_bench_sweeps_and_presets(run, debug):
    code, out, _ = run("bench", "--sweep", "batch", "--batch", 2, "--check", "--plot", "batch.png", *debug)
    report = json.loads(out.splitlines()[-1])
    assert (code, [point["clips"] for point in report["batches"]]) == (0, [1, 2])
    assert Path("batch.png").read_bytes().startswith(b"\x89PNG")
    words = ["bench", "--preset", "emu3-8b", "--device", "cpu"]
    code, out, _ = run(*words, "--check", "--no-baselines", "--json")
    report = json.loads(out)
    assert (code, report["model"]) == (0, "emu3-8b, random weights, reduced for a check")
    assert all(row["ok"] for row in report["rows"])
    assert "preset: must not be given with a model" in run(*words, "--model", debug[1])[2]
    assert "preset: must be one of cosmos-4b, emu3-8b, llama-27m, got 'x'" in run("bench", "--preset", "x")[2]


def test_bench_against_another_build_has_options_of_its_own(run, monkeypatch):
    monkeypatch.setattr("reelm.bench.builds.compare_builds", lambda *given, **options: {"given": given, **options})
    code, out, _ = run("bench", "--against", "old", "--seconds", 25, "--threads", 2, "--json")
    report = json.loads(out)
    assert (code, report["given"], report["seconds"], report["threads"]) == (0, ["old"], 25, 2)
    assert "weights: must not be given with --against" in run("bench", "--against", "old", "--weights", "int8")[2]
    assert "threads: must be given with --against, or not at all, got 2" in run("bench", "--threads", 2)[2]


def test_bench_of_a_preset_that_does_not_fit_makes_nothing(run, monkeypatch):
    monkeypatch.setattr("reelm.bench.presets.available_memory", lambda place: 2**32)
    code, out, err = run("bench", "--preset", "cosmos-4b", "--device", "cpu")
    assert (code, out) == (2, "")
    assert re.match(r"reelm: error: memory: must be at least 1\d\.\d+ GiB for 1 clips .*, got 4 GiB\n", err)


def test_bench_tokenizer_prints_a_table_and_then_json(run, debug_checkpoint):
    words = ["bench", "tokenizer", "--preset", "tiny", "--device", "cpu"]
    small = ["--num-frames", 9, "--height", 16, "--width", 32, "--batch", 2, "--repeats", 2, "--no-baselines"]
    code, out, err = run(*words, "--compression", "8x16x16", "--dtype", "bfloat16", *small)
    assert (code, err) == (0, "")
    report = json.loads(out.splitlines()[-1])
    assert len(out.splitlines()) == len(report) - 1 + 1 + 1 + 1 + 1
    assert (report["tokenizer"], report["compression"], report["dtype"]) == ("tiny", "8x16x16", "bfloat16")
    assert [report[name] for name in ("num_frames", "height", "width", "batch", "tokens")] == [9, 16, 32, 2, 8]
    assert [len(row["rounds_ms"]) for row in report["rows"]] == [2]
    code, out, _ = run(*words, "--check", "--json")
    assert [row["row"] for row in json.loads(out)["rows"]] == ["reelm", "cosmos"]
    assert list(json.loads(out)) == list(report)
    Path("own").mkdir()
    save_json(Path("own/tokenizer.json"), read_json(debug_checkpoint / "config.json")["tokenizer"])
    shutil.copy(debug_checkpoint / "tokenizer.safetensors", "own")
    code, out, _ = run(*words[:2], "--tokenizer", "own", "--check", "--json", "--dtype", "float16", "--device", "cpu")
    found = json.loads(out)
    assert (code, found["tokenizer"], found["dtype"], found["rows"][0]["note"]) == (0, "own", "float16", "own")
    refused = run(*words, "--tokenizer", "own")
    assert refused[:2] == (2, "") and "preset, compression: must not be given with a tokenizer" in refused[2]
    assert "preset: must be one of tiny, small, base, got 'x'" in run(*words[:2], "--preset", "x")[2]
    assert "num_frames: must be 1 + a multiple of 4, got 16" in run(*words, "--num-frames", 16)[2]


def test_evaluate_prints_a_table_and_then_json(run, debug):
    counts = ["--prompts", 2, "--two-objects", 1, "--clips", 2, "--batch", 2]
    code, out, _ = run("evaluate", *counts, "--contact-sheet", "sheet.png", *debug)
    assert code == 0
    assert json.loads(out.splitlines()[-1])["generated_two_objects"]["n"] == 1
    assert len(out.splitlines()) > 10
    assert names() == ["sheet.png"]
    refused = run("evaluate", *counts, "--contact-sheet", "sheet.mp3", *debug)
    assert refused == (2, "", "reelm: error: contact_sheet: must end in .png, got 'sheet.mp3'\n")


def test_info_tells_sizes_and_versions(run, debug, debug_checkpoint, debug_generator):
    code, out, err = run("info", "--json", *debug)
    values = json.loads(out)
    assert (code, err) == (0, "")
    assert values["lm_parameters"] == sum(p.numel() for p in debug_generator.parts.lm.parameters())
    assert values["vocab_size"] == 25
    assert values["window_seconds"] == 2.5
    assert values["bytes_on_disk"] == sum(path.stat().st_size for path in debug_checkpoint.iterdir())
    assert values["torch"] == torch.__version__
    table = run("info", *debug)[1].splitlines()
    assert [re.split(r"  +", line)[0].replace(" ", "_") for line in table] == list(values)


def test_a_plan_tells_what_clips_take_before_any_weight_is_read(run, debug_checkpoint):
    Path("model").mkdir()
    shutil.copy(debug_checkpoint / "config.json", "model")  # and nothing else
    words = ["info", "--plan", "--model", "./model", "--device", "cpu"]
    code, out, err = run(*words, "--json")
    one = json.loads(out)
    assert (code, err) == (0, "")
    assert (one["seconds"], one["batch"], one["dtype"]) == (2.0, 1, "float32")
    assert one["total"] == max(one[f"peak_{name}"] for name in ("loading", "sampling", "decoding"))
    assert (one["available"] is None) == (one["most_clips"] is None)
    longer = json.loads(run(*words, "--json", "--seconds", 20)[1])
    assert longer["frames"] - one["frames"] >= 36 * 4 * 32 * 48 * 3
    assert json.loads(run(*words, "--json", "--batch", 3)[1])["cache"] == 3 * one["cache"]
    assert json.loads(run(*words, "--json", "--dtype", "bfloat16")[1])["weights"] < one["weights"]
    table = run(*words)[1].splitlines()
    assert [re.split(r"  +", line)[0].replace(" ", "_") for line in table] == list(one)
    refused = run("info", "--seconds", 3, "--model", "./model", "--device", "cpu")
    assert refused == (2, "", "reelm: error: seconds: must be given with --plan only, got {'seconds': 3.0}\n")
    assert "batch: must be from 1 to 4096, got 0" in run(*words, "--batch", 0)[2]
    preset = json.loads(run("info", "--plan", "--preset", "cosmos-4b", "--device", "cpu", "--json")[1])
    assert (preset["model"], preset["cache"] > 2**30) == ("cosmos-4b", True)
    assert "preset: must not be given with a model" in run(*words, "--preset", "cosmos-4b")[2]
    assert "preset: must be given with --plan only" in run("info", "--preset", "cosmos-4b")[2]
    assert "model: config.json must exist" in run("info", "--plan", "--model", ".")[2]


def test_a_wrong_row_fails_the_command(run, monkeypatch):
    for ok in (True, False):
        report = BenchmarkReport(rows=[{"row": "reelm", "ok": ok, "tokens_per_second": 1.0}])
        monkeypatch.setattr("reelm.bench.sampling.benchmark", lambda *_, report=report, **__: report)
        assert run("bench", "--json")[0] == (0 if ok else 1)
