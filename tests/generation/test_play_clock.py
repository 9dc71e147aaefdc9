"""Play by the clock: what a script holds, when pictures are due, and what is measured."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from reelm.core.controls import ControlTrack, read_written
from reelm.core.errors import ReelmError
from reelm.generation.play_clock import RandomPlayer, Script, play_by_clock, random_track


class Time:
    """A clock that only waiting moves, and drawing if it takes time."""

    def __init__(self):
        self.now, self.shown = 100.0, []

    def clock(self):
        return self.now

    def wait(self, seconds):
        self.now += max(seconds, 1e-4)

    def show(self, picture):
        self.shown.append((self.now, picture))


def run(generator, track, seconds, **options):
    time = Time()
    with generator.play("a red ball", seed=2, temperature=2.0, **options) as session:
        report = play_by_clock(
            session, Script(track, session), time.show, seconds=seconds, clock=time.clock, wait=time.wait
        )
    return report, time, session


def test_a_script_is_played_picture_by_picture_at_the_rate_of_the_model(played_generator):
    track = read_written("a-3,d+jump-1,none-2,d-3")  # sets that change within a latent frame, too
    report, time, session = run(played_generator, track, 1.0)
    assert (report.pictures, len(time.shown)) == (8, 8)
    assert np.allclose(np.diff([at for at, _ in time.shown]), 1 / 8, atol=0.003)
    assert report.frames_per_second == pytest.approx(8, rel=0.01)
    whole = played_generator.generate("a red ball", seed=2, temperature=2.0, keys=track[:8])
    assert np.array_equal(np.stack([picture for _, picture in time.shown]), whole.frames[:8])
    assert session.held.keys[:7] == track.keys[:7]
    assert json.loads(json.dumps(asdict(report)))["tokens_sha256"] == report.tokens_sha256


def test_the_same_script_gives_the_same_tokens_ahead_or_not_and_other_keys_give_others(played_generator):
    track = random_track(("a", "d", "jump"), 24, fps=8, seed=3)
    first, second = (run(played_generator, track, 2.0, ahead=ahead)[0] for ahead in (True, False))
    assert first.tokens_sha256 == second.tokens_sha256
    assert second.ready_before_due == 0 == second.dropped
    assert first.tokens_sha256 != run(played_generator, read_written("jump-24"), 2.0)[0].tokens_sha256


def test_how_long_a_key_takes_to_show(played_generator):
    """A key that is held from picture 2 on is due in picture 3, the first of a latent frame: an eighth of a second."""
    report, _, _ = run(played_generator, read_written("none-2,a-14"), 1.0)
    assert report.key_to_picture_ms["p50"] == report.key_to_picture_ms["p95"] == pytest.approx(125, abs=5)
    assert run(played_generator, read_written("none-16"), 1.0)[0].key_to_picture_ms is None


def test_pictures_that_are_late_let_the_clock_wait(played_generator):
    time = Time()
    with played_generator.play("a red ball", seed=2) as session:
        step = session.step

        def slow(*arguments):
            time.now += 0.5
            return step(*arguments)

        session.step = slow
        report = play_by_clock(
            session, Script(ControlTrack(()), session), time.show, seconds=1, clock=time.clock, wait=time.wait
        )
    # Of each delay one picture is made up for.
    assert report.pictures == 8 and report.seconds == pytest.approx(8 / 8 + 4 * (0.5 - 1 / 8), abs=0.05)
    assert np.diff([at for at, _ in time.shown]).max() == pytest.approx(0.5 + 1 / 8, abs=0.02)


def test_short_delays_are_made_up_for(played_generator):
    """One step in four takes three quarters of a picture too long: the rate stays that of the model."""
    time = Time()
    with played_generator.play("a red ball", seed=2) as session:
        step, steps = session.step, []

        def slow(*arguments):
            steps.append(1)
            time.now += 0.75 / 8 if len(steps) % 4 == 0 else 0
            return step(*arguments)

        session.step = slow
        report = play_by_clock(
            session, Script(ControlTrack(()), session), time.show, seconds=8, clock=time.clock, wait=time.wait
        )
    assert report.frames_per_second == pytest.approx(8, rel=0.01)
    apart = np.diff([at for at, _ in time.shown])
    assert apart.max() == pytest.approx(1.75 / 8, abs=0.01) and apart.min() == pytest.approx(0.25 / 8, abs=0.01)


def test_random_keys_change_every_half_a_second_and_are_seeded():
    keys = ("a", "d", "jump")
    track = random_track(keys, 6000, fps=15, seed=1)
    assert track == random_track(keys, 6000, fps=15, seed=1) != random_track(keys, 6000, fps=15, seed=2)
    changes = sum(a != b for a, b in zip(track.keys, track.keys[1:], strict=False))
    assert 0.4 < len(track) / changes / 15 < 0.9
    assert {len(held) for held in track.keys} == {0, 1, 2}
    shares = [sum(name in held for held in track.keys) / len(track) for name in keys]
    assert all(0.25 < share < 0.42 for share in shares)


def test_a_random_player_changes_keys_at_any_moment_and_gives_the_same_tokens_on_a_slow_machine(played_generator):
    """Keys count from the moment at which a step is due, so that they take between no time and a step to show."""

    def play(late):
        time = Time()
        with played_generator.play("a red ball", seed=2, temperature=2.0) as session:
            step = session.step

            def slow(*arguments):
                time.now += late
                return step(*arguments)

            session.step = slow
            return play_by_clock(
                session, RandomPlayer(session.keys, seed=5), time.show, seconds=20, clock=time.clock, wait=time.wait
            )  # fmt: skip

    fast, slow = play(0.0), play(0.3)
    assert fast.tokens_sha256 == slow.tokens_sha256
    delays = fast.key_to_picture_ms
    assert 60 < delays["p50"] < 190 and delays["p50"] < delays["p95"] < 255


def test_it_stops_when_it_is_told_to(played_generator):
    time, seen = Time(), []
    with played_generator.play("a red ball") as session:
        play_by_clock(session, Script(ControlTrack(()), session), seen.append, stop=lambda: len(seen) == 5,
                      clock=time.clock, wait=time.wait)  # fmt: skip
        with pytest.raises(ReelmError, match=r"^seconds: must be finite and above 0"):
            play_by_clock(session, Script(ControlTrack(()), session), seen.append, seconds=0)
    assert len(seen) == 5
