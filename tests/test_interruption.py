"""Ctrl-C and SIGTERM: what was drawn goes on with the same tokens, and the exit codes are as documented."""

import contextlib
import os
import re
import shlex
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from reelm.core.signals import Interrupted, deferred_signals, raised_signals, stop_signals
from reelm.generation.session import SessionState
from reelm.generation.session_files import SessionFiles
from reelm.generation.video import Video
from reelm.sampling.engine import Engine

pytestmark = pytest.mark.usefixtures("empty_folder")
BOTH = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@pytest.fixture
def at_frame(monkeypatch):
    """Send a signal to this process when so many latent frames are drawn."""

    def install(frames, number):
        step, drawn = Engine.step, []

        def interrupted(self):
            found = step(self)
            drawn.extend(found)
            if frames <= len(drawn) < 10**6:
                drawn.extend([None] * 10**6)
                os.kill(os.getpid(), number)
            return found

        monkeypatch.setattr(Engine, "step", interrupted)

    return install


def commands(text):
    """The commands in the messages of an interrupted one."""
    return [shlex.split(line.split("reelm ", 1)[1]) for line in text.splitlines() if ": reelm " in line]


@BOTH
def test_generate_goes_on_with_the_same_tokens(number, code, run, debug, debug_generator, at_frame):
    words = ["a red ball", "--then", "1: a blue ring", "--num-frames", 17, "--top-k", 9, "--decoder", "jacobi"]
    at_frame(2, number)
    found, out, err = run("generate", *words, "-o", "a.mkv", *debug)
    assert (found, out) == (code, "") and err.endswith("reelm: interrupted\n")
    seed = int(re.search(r"^(\d) of 5 latent frames are safe \(seed (\d+)\); go on with: ", err, re.MULTILINE)[2])
    assert [path.name for path in Path().iterdir()] == ["a.session.safetensors"]
    assert 1 <= len(SessionState.load("a.session.safetensors").tokens_thw) < 5
    assert run("decode", "a.session.safetensors", "-o", "part.mkv", *debug)[0] == 0
    (command,) = commands(err)
    assert run(*command)[0] == 0
    whole = debug_generator.generate([(0, "a red ball"), (1, "a blue ring")], num_frames=17, top_k=9, seed=seed)
    video, part = Video.load("a.mkv"), Video.load("part.mkv")
    assert np.array_equal(video.tokens, whole.tokens) and np.array_equal(video.frames, whole.frames)
    assert np.array_equal(part.frames, whole.frames[: len(part.frames)])


def test_every_clip_of_a_batch_goes_on(run, debug, debug_generator, at_frame):
    at_frame(5, signal.SIGINT)
    words = ["a red ball", "--num-frames", 9, "--seed", 5, "--num-videos-per-prompt", 3, "--batch-size", 2]
    code, _, err = run("generate", *words, "-o", "a.mkv", *debug)
    assert code == 130
    wanted = debug_generator.generate("a red ball", num_frames=9, seed=5, num_videos_per_prompt=3)
    assert len(commands(err)) >= 2
    for command in commands(err):
        assert run(*command)[0] == 0
    for path in Path().glob("a-*.mkv"):
        assert np.array_equal(Video.load(path).tokens, wanted[int(path.stem[-1]) - 1].tokens)


@BOTH
def test_continue_goes_on_with_the_same_tokens(number, code, run, debug, debug_generator, at_frame):
    start = debug_generator.generate("a red ball", num_frames=5, seed=3)
    start.save("a.mkv")
    at_frame(2, number)
    found, _, err = run("continue", "a.mkv", "--num-frames", 16, "-o", "b.mkv", *debug)
    assert found == code
    (command,) = commands(err)
    assert run(*command)[0] == 0
    whole = debug_generator.generate("a red ball", num_frames=21, seed=3)
    assert np.array_equal(Video.load("b.mkv").tokens, whole.tokens)


def test_python_gets_what_was_drawn(debug_generator, at_frame):
    states = []
    at_frame(3, signal.SIGINT)  # what the step returns that is interrupted is not there yet
    with pytest.raises(KeyboardInterrupt):
        debug_generator.generate("a red ball", num_frames=17, seed=3, callback_on_tokens=states.extend)
    (state,) = states
    assert len(state.tokens_thw) == 2 and state.planned == 5
    rest = debug_generator.continue_clip(state)  # its length is what is missing
    assert np.array_equal(rest.tokens, debug_generator.generate("a red ball", num_frames=17, seed=3).tokens)


def test_a_stream_that_fails_leaves_its_tokens(debug_generator, monkeypatch, capsys):
    from reelm.generation.stream_file import write_stream
    from reelm.media.writer import ClipWriter

    write = ClipWriter.write

    def full(self, frames_THW3):
        if self.frames >= 5:
            raise OSError(28, "No space left on device")
        write(self, frames_THW3)

    monkeypatch.setattr(ClipWriter, "write", full)
    with pytest.raises(OSError, match="No space"):
        write_stream(debug_generator.stream("a red ball", seed=3, num_frames=17), "a.mkv")
    monkeypatch.setattr(ClipWriter, "write", write)
    (command,) = commands(capsys.readouterr().err)
    state = SessionState.load("a.session.safetensors")
    assert command[0] == "continue" and len(state.tokens_thw) >= 2
    whole = debug_generator.generate("a red ball", num_frames=17, seed=3)
    assert np.array_equal(debug_generator.continue_clip(state).tokens, whole.tokens)


def test_a_stream_is_closed_by_another_thread_while_it_is_read(debug_generator):
    stream, frames = debug_generator.stream("a red ball", seed=3), []
    reader = threading.Thread(target=lambda: frames.extend(stream))
    reader.start()
    while not frames:
        time.sleep(0.01)
    stream.close()
    reader.join(30)
    assert not reader.is_alive() and list(stream) == []
    tokens = stream.session.tokens_thw.numpy()
    wanted = debug_generator.generate("a red ball", num_frames=4 * len(tokens) - 3, seed=3).tokens
    assert len(tokens) >= len(frames) >= 1 and np.array_equal(tokens, wanted)


def test_a_stream_is_closed_by_its_own_callback(debug_generator):
    def close(passes, tokens):
        if passes == 40:
            stream.close()

    stream = debug_generator.stream("a red ball", seed=3, decoder="sequential", callback_on_step_end=close)
    assert len(list(stream)) <= 2 and list(stream) == []


def test_session_files_have_names_for_all_clips(debug_generator):
    with pytest.raises(OSError, match="full"), SessionFiles(["a.mkv"]) as sessions:
        debug_generator.generate(["a red ball", "a blue ring"], num_frames=1, callback_on_tokens=sessions.save)
        raise OSError("full")
    assert [path.name for path in sessions.kept] == ["a.session.safetensors", "a.session-2.safetensors"]
    with pytest.raises(ValueError, match="clips: must be at least one"):
        SessionFiles([])


# ---- signals


def test_a_signal_is_not_lost_where_deferred_work_fails():
    with pytest.raises(Interrupted), raised_signals() as caught, deferred_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError("full")
    assert caught == [signal.SIGTERM]


@BOTH
def test_signals_are_raised_deferred_and_collected(number, code):
    before = signal.getsignal(number)
    order = []
    with contextlib.suppress(Interrupted), raised_signals() as caught:
        with deferred_signals():
            os.kill(os.getpid(), number)
            order.append("file written")
        order.append("never")
    assert (order, caught) == (["file written"], [number])
    with raised_signals() as caught, stop_signals() as stopped:
        os.kill(os.getpid(), number)
        assert stopped == [number] == caught
        with pytest.raises(Interrupted) if number == signal.SIGINT else contextlib.nullcontext():
            os.kill(os.getpid(), number)  # a manager of processes may send SIGTERM twice
        assert stopped == [number, number]
    assert signal.getsignal(number) is before


def test_a_signal_that_python_drops_comes_again():
    class Held:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted), raised_signals():
        held = Held()
        del held
        for _ in range(200):
            time.sleep(0.01)


def test_other_threads_are_left_alone():
    found = []

    def work():
        with deferred_signals(), stop_signals() as stopped:
            found.append(stopped)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[]]
