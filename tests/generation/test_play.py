"""A model that is played: the same clip as `generate`, drawn ahead or not, saved and played on."""

import pickle
import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.controls import ControlTrack
from reelm.core.errors import ReelmError
from reelm.generation.generator import VideoGenerator
from reelm.generation.session import SessionState
from reelm.sampling.engine import Engine
from reelm.tests.examples import examples

OPTIONS = {"temperature": 2.0, "guidance_scale": 1.5}
PLAYED = [(), (), "a", {"a", "jump"}, {"a", "jump"}, "d", (), "d"]


def play(generator, keys=PLAYED, **options):
    """The session of a play, closed, and its pictures."""
    with generator.play("a red ball", **{"seed": 5, **OPTIONS, **options}) as session:
        pictures = [session.pictures, *(session.step(held) for held in keys)]
    return session, np.concatenate(pictures)


@pytest.fixture
def whole(played_generator):
    held = [frozenset([held] if isinstance(held, str) else held) for held in PLAYED for _ in range(2)]
    return played_generator.generate("a red ball", seed=5, keys=held, **OPTIONS)


@pytest.mark.parametrize("options", [
    {}, {"ahead": False}, {"decoder": "sequential"}, {"decoder": "jacobi", "block_size": 28},
    {"block_size": 56}, {"guidance_scale": 1.5, "guidance": "two-row"},
])  # fmt: skip
def test_what_is_played_is_what_its_keys_generate(played_generator, whole, options):
    session, pictures = play(played_generator, **options)
    assert np.array_equal(pictures, whole.frames)
    assert np.array_equal(session.session.tokens_thw, whole.tokens)
    assert session.held.written == "none-4,a-2,a+jump-4,d-2,none-2,d-2"
    assert session.dropped == (0 if options == {"ahead": False} else 5)
    again = played_generator.generate("a red ball", seed=5, keys=session.held, **OPTIONS)
    assert np.array_equal(again.tokens, whole.tokens)


def test_what_is_drawn_ahead_and_dropped_leaves_no_trace(played_checkpoint):
    generator = VideoGenerator.from_pretrained(played_checkpoint, device="cpu")

    @examples(12)
    @given(st.lists(st.frozensets(st.sampled_from(["a", "d", "jump"])), min_size=1, max_size=6), st.integers(0, 99))
    def check(keys, seed):
        sessions = [play(generator, keys, seed=seed, ahead=ahead)[0] for ahead in (True, False)]
        assert torch.equal(sessions[0].session.tokens_thw, sessions[1].session.tokens_thw)

    check()


def test_a_latent_frame_that_was_half_drawn_leaves_no_trace(played_generator, whole):
    """Keys that change at once, so that what is drawn ahead is cancelled after its first passes."""
    step, entered, asked = type(played_generator.parts.lm).step, threading.Event(), threading.Event()

    def slow(model, *arguments):
        entered.set()
        asked.wait(0.02)
        return step(model, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(played_generator.parts.lm), "step", slow)
        _, pictures = play(played_generator, block_size=4)
    assert entered.is_set() and np.array_equal(pictures, whole.frames)


@pytest.mark.parametrize("block_size", [29, 40, 56])
def test_whole_latent_frames_that_are_dropped_leave_no_trace_of_the_drafts_after_them(played_generator, block_size):
    """Drafts two latent frames ahead, under keys that are never held."""
    options = {"seed": 5, "guidance_scale": 1.0, "temperature": 2.0, "block_size": block_size}
    with played_generator.play("a red ball", **options) as session:
        for held in (*PLAYED, *PLAYED):
            session.expect("jump")
            session._coming.result()
            session.step(held)
    again = played_generator.generate("a red ball", **options | {"block_size": 4}, keys=session.held)
    assert np.array_equal(session.session.tokens_thw, again.tokens)


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_step_that_fails_changes_nothing(played_generator, whole, monkeypatch, error, ahead):
    """In the thread after some passes, or in the caller while the thread goes on."""
    step, passes = Engine.step, []

    def failing(engine):
        passes.append(1)
        if len(passes) in (3, 11, 12, 30, 47):
            raise error
        return step(engine)

    with played_generator.play("a red ball", seed=5, ahead=ahead, block_size=9, **OPTIONS) as session:
        pictures = [session.pictures]
        monkeypatch.setattr(Engine, "step", failing)
        for held in PLAYED:
            while True:
                try:
                    pictures.append(session.step(held))
                    break
                except error:
                    pass
    assert len(passes) > 10 and np.array_equal(np.concatenate(pictures), whole.frames)


def test_ctrl_c_while_a_step_waits_changes_nothing(played_generator, whole, monkeypatch):
    with played_generator.play("a red ball", seed=5, **OPTIONS) as session:
        pictures = [session.pictures]
        for number, held in enumerate(PLAYED):
            if number in (2, 5):
                with monkeypatch.context() as patch:
                    patch.setattr(Future, "result", interrupt)
                    with pytest.raises(KeyboardInterrupt):
                        session.step(held)
            pictures.append(session.step(held))
    assert np.array_equal(np.concatenate(pictures), whole.frames)


def interrupt(future):
    raise KeyboardInterrupt


def test_a_thread_that_tells_of_keys_and_one_that_steps(played_generator, whole):
    with played_generator.play("a red ball", seed=5, **OPTIONS) as session:
        done = threading.Event()

        def tell():
            number = 0
            while not done.is_set():
                session.expect(("a", "d", "jump", ())[number % 4])
                number += 1

        thread = threading.Thread(target=tell)
        thread.start()
        try:
            pictures = [session.pictures, *(session.step(held) for held in PLAYED)]
        finally:
            done.set()
            thread.join()
    assert np.array_equal(np.concatenate(pictures), whole.frames)


def test_closing_ends_a_step_of_another_thread(played_generator, monkeypatch):
    step, entered = Engine.step, threading.Event()

    def slow(engine):
        entered.set()
        time.sleep(0.05)
        return step(engine)

    session, errors = played_generator.play("a red ball", ahead=False, block_size=1), []
    monkeypatch.setattr(Engine, "step", slow)

    def play_on():
        try:
            session.step("a")
        except ReelmError as error:
            errors.append(str(error))

    thread = threading.Thread(target=play_on)
    thread.start()
    assert entered.wait(10)
    session.close()
    session.close()
    thread.join(10)
    assert errors == ["play: must not be closed, got a step that was closed"]


def test_it_is_saved_and_played_on(played_generator, whole, tmp_path):
    first, pictures = play(played_generator, PLAYED[:3])
    path = first.session.save(tmp_path / "play.safetensors")
    for clip in (first.session, path, SessionState.load(path)):
        with played_generator.play(clip=clip) as session:
            assert np.array_equal(session.pictures, pictures[-2:])
            rest = [session.step(held) for held in PLAYED[3:]]
        assert np.array_equal(np.concatenate([pictures, *rest]), whole.frames)
        assert session.held.written == "a+jump-4,d-2,none-2,d-2"
        assert np.array_equal(session.session.tokens_thw, whole.tokens)


def test_it_is_played_from_a_picture(played_generator):
    picture = np.full((32, 48, 3), 90, np.uint8)
    with played_generator.play(image=picture, seed=1, **OPTIONS) as session:
        assert session.pictures.shape == (1, 32, 48, 3)
        played = np.concatenate([session.step("a"), session.step("d")])
    clip = played_generator.continue_clip(image=picture, keys=session.held, seed=1, **OPTIONS, detail=False)
    assert np.array_equal(played, clip.frames[1:])


def test_pictures_that_are_there_in_time(played_generator):
    with played_generator.play("a red ball", seed=5) as session:
        session._coming.result()
        assert session.ready() and session.ready("none") and not session.ready("a")
        session.step("a")
        session._coming.result()
        assert session.ready("a") and not session.ready()
        assert session.fps == 8 and session.keys == ("a", "d", "jump")
    with played_generator.play("a red ball", seed=5, ahead=False) as session:
        assert not session.ready()


def test_a_wrong_step_loses_nothing(played_generator, whole):
    with played_generator.play("a red ball", seed=5, **OPTIONS) as session:
        for keys, axes, message in (
            ("jum", None, r"^keys: must be of a, d, jump \(did you mean 'jump'\?\), got 'jum'"),
            ({"w", "a"}, None, "^keys: must be of a, d, jump, got 'w'"), (3, None, "^keys: must be sets of names"),
            ("a", {"tilt": 1.0}, "^keys: must be of turn, got 'tilt'"), ("a-2,d", None, "^keys: must be one set"),
            ("a", {"turn": "x"}, r"^axes\['turn'\]: must be a number"), ("a", [1], "^axes: must be turns by the names"),
            (ControlTrack((frozenset(),) * 2), {"turn": 1.0}, "^axes: must not be given with a track"),
            (ControlTrack((frozenset(),) * 3), None, "^keys: must be of 2 pictures, those of a step, got 3"),
            ("a", {"turn": float("inf")}, "^turn: must be finite"),
        ):  # fmt: skip
            with pytest.raises(ReelmError, match=message):
                session.step(keys, axes)
        pictures = [session.pictures, *(session.step(held) for held in PLAYED)]
    assert np.array_equal(np.concatenate(pictures), whole.frames)
    for call in (session.step, session.expect):
        with pytest.raises(ReelmError, match=r"^play: must not be closed"):
            call(PLAYED[-1])  # though these pictures may be drawn


def test_what_cannot_be_played_is_refused(debug_generator, played_generator):
    with pytest.raises(ReelmError, match=r"^model: must be one that is played by keys"):
        debug_generator.play("a red ball")
    for options, message in (
        ({"keys": "a-3"}, "^keys: is no option of play; generate, continue_clip and stream have it"),
        ({"seconds": 2}, "^seconds: is no option of play"), ({"ahead": 1}, "^ahead: must be True or False"),
        ({"clip": "no.mp4"}, "^clip: "), ({"seed": -1}, "^seed: "),
    ):  # fmt: skip
        with pytest.raises(ReelmError, match=message):
            played_generator.play("a red ball", **options)
    with played_generator.play("a red ball") as session, pytest.raises(ReelmError, match=r"^play: must not be pickled"):
        pickle.dumps(session)
