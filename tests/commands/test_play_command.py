"""`reelm play`: without a terminal, recorded and played again, and in a terminal of a test."""

import json
import os
import pty
import subprocess
import sys
import time

import numpy as np
import pytest

from reelm.commands.terminal import bindings
from reelm.generation.play_file import read_keys_file
from reelm.generation.video import Video


@pytest.fixture
def played(played_checkpoint, empty_folder):
    """The words of a play of one second without a terminal."""
    return ["play", "a red ball", "--model", played_checkpoint, "--headless", "--seconds", 1, "--seed", 4, "--json"]


def test_a_play_without_a_terminal_is_recorded_and_played_again(run, played, played_generator):
    code, out, err = run(*played, "--record", "one.mp4")
    report = json.loads(out)
    assert code == 0 and "wrote one.mp4 and one.keys.txt" in err
    assert set(report) == {"pictures", "seconds", "frames_per_second", "key_to_picture_ms", "ready_before_due",
                           "dropped", "tokens_per_pass", "tokens_sha256"}  # fmt: skip
    assert report["pictures"] == 8 and 2 < report["frames_per_second"] < 8.1 and report["tokens_per_pass"] >= 1
    clip, held = Video.load("one.mp4"), read_keys_file("one.keys.txt")
    assert len(clip.frames) == 9 and clip.tokens is not None and clip.fps == 8  # whole latent frames
    again = played_generator.continue_clip("one.mp4", keys="a-4")
    assert np.array_equal(again.tokens[:5], clip.tokens) and len(again.frames) == 13
    assert np.array_equal(clip.tokens, played_generator.generate("a red ball", seed=4, keys=held).tokens)
    again = json.loads(run(*played, "--keys", "one.keys.txt", "--no-ahead")[1])
    assert again["tokens_sha256"] == report["tokens_sha256"] and again["ready_before_due"] == 0
    assert json.loads(run(*played, "--keys", "jump-1," * 80 + "a-1")[1])["tokens_sha256"] != report["tokens_sha256"]
    words = [word for word in played if word not in ("--seconds", 1)]
    assert json.loads(run(*words, "--keys", "jump-4")[1])["pictures"] == 5


def test_a_play_that_is_interrupted_is_a_whole_clip(run, played, monkeypatch):
    monkeypatch.setattr("reelm.generation.play_clock.RandomPlayer.next_keys", interrupting(monkeypatch))
    code, _, _ = run(*played, "--record", "cut.mp4")
    assert code == 143
    clip, held = Video.load("cut.mp4"), read_keys_file("cut.keys.txt")
    assert clip.tokens is not None and 2 < len(clip.frames) < 8
    assert len(held) >= len(clip.frames) - 1


def interrupting(monkeypatch):
    """Keys in which a signal arrives after some looks."""
    from reelm.core.controls import ControlTrack

    calls = []

    def next_keys(script, seconds, pictures):
        calls.append(seconds)
        if seconds > 0.4 and "sent" not in calls:
            calls.append("sent")
            os.kill(os.getpid(), 15)
        return ControlTrack((frozenset(["a"]),) * pictures)

    return next_keys


@pytest.mark.parametrize(("words", "message"), [
    (["--keys", "jum-3"], "keys: must be of a, d, jump (did you mean 'jump'?), got 'jum'"),
    (["--keys", "a"], "keys: must be keys and numbers of pictures"), (["--seconds", 0], "seconds: must be finite"),
    (["--record", "one.txt"], "output: must end in .mp4 or .mkv"), (["--clip", "nothing.mp4"], "clip: "),
])  # fmt: skip
def test_what_cannot_be_played_is_said_in_one_line(run, played, words, message):
    code, out, err = run(*played, *words)
    assert (code, out) == (2, "") and message in err.splitlines()[-1]


def test_without_a_terminal_it_says_so(run, played, debug_checkpoint):
    words = [word for word in played if word not in ("--headless", "--json")]
    assert "terminal: must be one, or play with --headless" in run(*words)[2]
    assert "json: must be given with --headless" in run(*words, "--json")[2]
    words = [debug_checkpoint if word == played[3] else word for word in played]
    assert "model: must be one that is played by keys" in run(*words)[2]


def test_what_the_keys_of_a_terminal_mean():
    assert bindings(("w", "a", "jump")) == {"w": "w", "a": "a", " ": "jump"}
    assert bindings(("left", "right", "up")) == {"\x1b[D": "left", "\x1b[C": "right", "\x1b[A": "up"}
    assert bindings(("jump", "space", "é", *"123456789", "11"))[" "] == "jump"
    assert bindings(("fire", "f", "forward")) == {"f": "f", "i": "fire", "o": "forward"}


def test_it_is_played_in_a_terminal(played_checkpoint, root, tmp_path):
    """A pseudo terminal of 60 columns: pictures are drawn, a press counts, and escape ends it."""
    main, child = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 60, 0, 0))
    before = termios.tcgetattr(child)
    words = ["-c", "import sys; from reelm.cli import main; sys.exit(main())", "play", "a red ball", "--seed", "1",
             "--model", str(played_checkpoint), "--record", str(tmp_path / "t.mp4")]  # fmt: skip
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "OMP_NUM_THREADS": "1"}
    environment.pop("COLUMNS", None), environment.pop("LINES", None)
    process = subprocess.Popen([sys.executable, *words], stdin=child, stdout=child, stderr=subprocess.PIPE,
                               env=environment)  # fmt: skip
    seen, pressed, end = b"", False, time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        os.set_blocking(main, False)
        try:
            seen += os.read(main, 65536)
        except BlockingIOError:
            time.sleep(0.02)
        if not pressed and seen.count(b"pictures a second") >= 3:
            os.write(main, b"a")
            pressed = True
        if seen.count(b"pictures a second") >= 9:
            os.write(main, b"\x1b")
    assert process.wait(10) == 0, process.stderr.read()
    assert "\u2580".encode() in seen and b"\x1b[38;2;" in seen and b"space=jump" in seen
    assert b"\x1b[?1049l" in seen
    assert termios.tcgetattr(child) == before
    assert any("a" in held for held in read_keys_file(tmp_path / "t.keys.txt").keys)
    process.stderr.close()
    os.close(main), os.close(child)
