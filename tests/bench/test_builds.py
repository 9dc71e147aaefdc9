"""`reelm bench --against`: two builds in turns. One test runs two real processes; the others, their parts."""

import subprocess
import sys

import numpy as np
import pytest

from reelm.bench import builds
from reelm.bench.builds import compare_builds
from reelm.core.errors import ReelmError
from reelm.media.writer import write_clip


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def checkout(folder):
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[project]\nname = "reelm"\n')
    (folder / "__init__.py").touch()
    return folder


def test_a_build_against_itself_draws_the_same_clips(debug_checkpoint, root):
    report = compare_builds(sys.executable, model=debug_checkpoint, threads=2, check=True)
    assert [row["row"] for row in report["rows"]] == ["default", "sequential", "batch of 2"]
    for row in report["rows"]:
        assert row["unit"] == "tokens/s" and row["rate"] > 0 and row["against_rate"] > 0 and row["same_rounds"] == 1
        assert row["ratio"] == pytest.approx(row["rate"] / row["against_rate"])
        assert 50 < row["peak_memory_mib"] < 2000 and 50 < row["against_peak_memory_mib"] < 2000
    assert report["this"]["folder"] == report["against"]["folder"] == str(root)
    assert report["this"]["threads"] == report["against"]["threads"] == 2
    assert {"reelm", "commit", "python", "torch"} <= set(report["this"])
    assert "default     tokens/s" in str(report)


@pytest.mark.slow
def test_the_reading_of_a_file_is_compared(tmp_path, root, monkeypatch):
    write_clip(tmp_path / "clip.mp4", np.zeros((5, 32, 48, 3), np.uint8), 8)
    monkeypatch.chdir(tmp_path)
    (row,) = compare_builds(root, clip="clip.mp4", repeats=2)["rows"]
    assert (row["row"], row["unit"], row["same_rounds"]) == ("reading", "frames/s", 2)


@pytest.mark.slow
def test_the_steps_of_a_training_are_compared(root):
    sizes = "--height 16 --width 16 --num-frames 5 --batch-size 1 --model.encoder-width 16 --model.decoder-widths 16 8"
    report = compare_builds(root, training=f"tokenizer {sizes} --model.decoder-depth 1 1", check=True)
    (row,) = report["rows"]
    assert (row["row"], row["unit"], row["same_rounds"]) == ("train tokenizer", "steps/s", 1)
    assert row["loss"] == row["against_loss"] and 0 < row["loss"] < 1
    assert str(row["loss"])[:5] in str(report)


def test_builds_take_turns_and_a_ratio_is_taken_within_a_round():
    order = []

    class Build:
        def __init__(self, name, speed):
            self.name, self.speed = name, speed

        def run(self, job):
            order.append((self.name, job["options"]["seed"]))
            slow = [1, 1, 0.01, 1][order[-1][1]]
            digest = f"{self.name if job['options']['seed'] == 3 else ''}"
            return {"rate": self.speed * slow, "peak": 2**20 * len(order), "digest": digest}

    row = builds._row("row", {"prompt": "", "options": {}}, Build("own", 30), Build("other", 10), 3, warm_up=True)
    assert order == [(name, seed) for seed in range(4) for name in (("own", "other") if seed % 2 else ("other", "own"))]
    assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == pytest.approx((3, 3, 3))
    assert (row["rate"], row["against_rate"], row["same_rounds"]) == (30, 10, 2)
    assert (row["peak_memory_mib"], row["against_peak_memory_mib"]) == (7, 8)


def test_what_names_a_build(tmp_path):
    without, own = checkout(tmp_path / "without"), checkout(tmp_path / "own")
    python = program(own / ".venv" / "bin" / "python", "")
    assert builds._find_build(without) == (sys.executable, without)
    assert builds._find_build(str(own)) == (str(python), own)
    assert builds._find_build(own / ".venv") == builds._find_build(python) == (str(python), None)
    (tmp_path / "link").symlink_to(python)  # the path of an interpreter decides which environment it has
    assert builds._find_build(tmp_path / "link") == (str(tmp_path / "link"), None)


@pytest.mark.parametrize(("options", "message"), [
    ({"against": "nowhere"}, "against: must be the folder of a checkout of reelm"),
    ({"against": "."}, "against: must be the folder of a checkout of reelm"),
    ({"against": "text"}, "against: must be the folder of a checkout of reelm"),
    ({"against": 3}, "against: must be a path"), ({"repeats": 0}, "repeats: must be a whole number from 1 on, got 0"),
    ({"threads": 1.5}, "threads: must be a whole number"), ({"batch": True}, "batch: must be a whole number"),
    ({"seconds": float("nan")}, "seconds: must be"), ({"model": "wrold"}, "model: must be a folder"),
    ({"training": ""}, "training: must be the words after"), ({"training": "text"}, "training: must be the words"),
    ({"training": "lm 'a"}, "training: must be the words"), ({"training": "lm", "clip": "a.mp4"}, "training: must not"),
    ({"training": "lm --out=x"}, "training: must be without options that the comparison sets, got '--out=x'"),
    ({"clip": "nothing.mp4"}, "clip: must be a file that exists"), ({"device": "tpu"}, "device: must be"),
])  # fmt: skip
def test_what_cannot_be_compared_is_refused_before_a_process_starts(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("no program")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n')
    (tmp_path / "__init__.py").touch()
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(ReelmError, match=message):
        compare_builds(**{"against": sys.executable} | options)


@pytest.mark.parametrize(("text", "message"), [
    ("exit 0", "against: must have reelm, got 'nothing'"),
    ("echo 'ImportError: no reelm' >&2; exit 1", "against: must have reelm, got 'ImportError: no reelm'"),
    ("echo 3", "against: must have reelm, got '3'"), ("echo hello", "against: must have reelm, got 'hello'"),
])  # fmt: skip
def test_programs_without_reelm_are_refused(text, message, tmp_path):
    with pytest.raises(ReelmError, match=f"^{message}$"):
        compare_builds(program(tmp_path / "python", text))


@pytest.mark.parametrize(
    "text", ["read job; echo 'ValueError: no such decoder' >&2", "echo 'ValueError: no such decoder' >&2"]
)
def test_a_build_that_cannot_run_a_call_says_why(text, tmp_path):
    python = program(tmp_path / "python", f"echo '{{\"reelm\": 1}}'; {text}")
    with builds._Build(str(python), None, 1, "against") as build:
        assert build.versions == {"reelm": 1}
        with pytest.raises(ReelmError, match=r"^against: must run the same call, got 'ValueError: no such decoder'$"):
            build.run({"prompt": "x" * 100_000})
    assert build._process.returncode is not None
