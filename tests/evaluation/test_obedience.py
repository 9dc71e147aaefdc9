"""The judge of what keys do: scrolls that are known to the pixel, holds, effects and shares."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.controls import read_written
from reelm.evaluation.motion import GROWTHS, REACH, find_cuts, measure_motion
from reelm.evaluation.obedience import Effect, Hold, Reach, does, find_holds, judge_holds, learn_effects
from reelm.evaluation.playing import obedience
from reelm.evaluation.recorded_plays import RecordedPlay
from reelm.tests.examples import examples

FPS = 15
TRACK = read_written("right-15,none-15,left-15,none-15,up-15," * 2 + "none-15")


@functools.cache
def world(seed=0):
    """A plain wall with boxes, 400 x 400."""
    rng, picture = np.random.default_rng(seed), np.full((400, 400, 3), 40, np.uint8)
    for _ in range(400):
        row, column = rng.integers(0, 390, 2)
        picture[row : row + 9, column : column + 9] = rng.integers(0, 256, 3)
    return picture


def walk(track, *, speed=2, obeys=lambda key, picture: True, seed=0):
    """Pictures 64 x 64 of a camera that goes right, left and up under the keys, with a sprite in the middle."""
    place, frames = np.array([150, 150]), []
    steps = {"right": (0, 1), "left": (0, -1), "up": (-1, 0)}
    for picture in range(len(track)):
        frame = world(seed)[place[0] : place[0] + 64, place[1] : place[1] + 64].copy()
        frame[28:36, 28:36] = (255, 0, 0)
        frames.append(frame)
        for key in track.keys[picture]:
            if obeys(key, picture):
                place = place + speed * np.array(steps[key])
    return np.stack(frames)


@examples(60)
@given(st.integers(-REACH, REACH), st.integers(-REACH, REACH), st.integers(0, 3))
def test_scrolls_are_measured_to_the_pixel(right, down, seed):
    picture = world(seed)
    pair = np.stack([picture[100:164, 100:164], picture[100 - down : 164 - down, 100 - right : 164 - right]])
    pair[:, 28:36, 28:36] = (255, 0, 0)
    moved, fit = measure_motion(pair)
    assert moved.tolist() == [[right, down, 0]] and fit[0] < 3


def test_plain_pictures_do_not_move():
    plain = np.full((3, 64, 64, 3), 90, np.uint8)
    assert not measure_motion(plain)[0].any() and not measure_motion(plain)[1].any()
    assert [part.shape for part in measure_motion(plain[:1])] == [(0, 3), (0,)]


def test_a_new_scene_is_found_and_fast_motion_is_none():
    frames = np.concatenate([walk(TRACK)[:40], walk(TRACK, seed=2)[:40]])
    assert np.flatnonzero(find_cuts(measure_motion(frames)[1])).tolist() == [39]
    assert not find_cuts(measure_motion(walk(TRACK[:60], speed=7))[1]).any() and not len(find_cuts(np.zeros(0)))


@pytest.mark.parametrize("growth", GROWTHS)
def test_a_scene_that_comes_nearer_or_goes_away_is_measured(growth):
    """A picture that is resampled about its middle, so that the middles of its edges move by this many pixels."""
    at = 119 + np.round((np.arange(64) - 31.5) / np.exp(growth / 32) + 31.5).astype(int)
    pair = np.stack([world()[119:183, 119:183], world()[at[:, None], at]])
    assert measure_motion(pair)[0].tolist() == [[0, 0, growth]]


def test_holds_are_of_one_key_and_long_enough():
    track = read_written("right-15,right+up-20,none-13,left-14")
    assert find_holds(track, fps=15) == [Hold("right", 0, 15), Hold("left", 48, 62)]


def judged(**options):
    return judge_holds(walk(TRACK, **options), find_holds(TRACK[: len(TRACK) - 1], fps=FPS))


def test_what_keys_do_is_read_off_the_game():
    effects = learn_effects(judged())
    assert {key: effect.direction for key, effect in effects.items()} == {
        "right": "left",
        "left": "right",
        "up": "down",
    }
    assert all(effect.least == pytest.approx(15, abs=1) for effect in effects.values()), "half of 30 pixels"
    assert "up" not in learn_effects(judged(obeys=lambda key, _: key != "up")), "a key that does nothing has no effect"
    for hold, reach in judged():
        assert does(hold.key, reach, effects)
        assert (reach.rest == 0) == (not hold.key)


def test_a_scene_that_moves_too_little_or_the_other_way_does_not_what_the_key_does():
    effects = {"right": Effect("left", 10.0)}
    reach = {
        "right": 0.0,
        "left": 0.0,
        "down": 0.0,
        "up": 0.0,
        "nearer": 0.0,
        "farther": 0.0,
        "rest": 0.0,
        "cut": False,
    }
    assert does("right", Reach(**reach | {"left": 10.0}), effects)
    assert not does("right", Reach(**reach | {"left": 9.0}), effects)
    assert not does("right", Reach(**reach | {"left": 12.0, "right": 14.0}), effects)


def test_a_walk_there_and_back_comes_back():
    track = read_written("right-15,left-15,right-15,none-15,right-2")
    (_, first), (_, second), (_, third), (_, fourth) = judge_holds(walk(track), find_holds(track, fps=FPS))
    assert first.back is None
    assert second.back > 50 and third.back > 50 and fourth.back < 25


def play():
    frames, holds = walk(TRACK), find_holds(TRACK[: len(TRACK) - 1], fps=FPS)
    return RecordedPlay("a", "a wall", frames[0], TRACK, judge_holds(frames, holds))


def test_the_game_itself_obeys_in_all_and_a_model_as_often_as_it_does():
    """The twin of a model: clips of which it is known when they obey."""
    whole = obedience([play()], lambda each: [walk(each.track, seed=1)], fps=FPS)
    assert whole["obeys"]["1s"] == {"left": 1.0, "right": 1.0, "up": 1.0, "all": 1.0}
    assert whole["still_without_keys"] == {"1s": 1.0, "10s": 1.0, "60s": None}
    assert whole["holds"]["10s"] == {"left": 0, "right": 0, "up": 0, "": 1}
    assert whole["obeys"]["10s"]["up"] is None and whole["obeys"]["60s"]["all"] is None

    late = obedience(
        [play()],
        lambda each: [walk(each.track, obeys=lambda key, at: key != "left"), walk(each.track)],
        fps=FPS,
    )
    assert late["obeys"]["1s"] == {"left": 0.5, "right": 1.0, "up": 1.0, "all": pytest.approx(2.5 / 3)}
    backwards = obedience([play()], lambda each: [walk(each.track, speed=-2)], fps=FPS)
    assert backwards["obeys"]["1s"]["all"] == 0 and backwards["still_without_keys"]["1s"] == 1
    assert obedience([play()], lambda each: [walk(TRACK[5:])], fps=FPS)["still_without_keys"]["1s"] < 1


def test_worlds_have_effects_of_their_own():
    """In one a key moves the scene, in the other it does nothing, and is not judged there."""
    one, frames = play(), walk(TRACK, obeys=lambda key, _: key != "up", speed=4)
    holds = [hold for hold, _ in one.judged]
    other = RecordedPlay("other/a", "a wall", frames[0], TRACK, judge_holds(frames, holds))
    assert (one.world, other.world) == ("", "other")
    report = obedience([one, other], lambda each: [walk(each.track, speed=4 if each is other else 2)], fps=FPS)
    assert set(report["effects"][""]) == {"right", "left", "up"} and set(report["effects"]["other"]) == {
        "right",
        "left",
    }
    assert report["effects"]["other"]["right"]["least"] == 2 * report["effects"][""]["right"]["least"]
    assert report["holds"]["1s"] == {"left": 2, "right": 4, "up": 1, "": 4} and report["obeys"]["1s"]["all"] == 1


def test_holds_in_which_the_game_begins_anew_are_left_out_on_both_sides():
    recorded = play()
    frames = np.concatenate([walk(TRACK)[:8], walk(TRACK, seed=2)[8:]])
    holds = [hold for hold, _ in recorded.judged]
    cut = RecordedPlay("b", "a wall", frames[0], TRACK, judge_holds(frames, holds, cuts=True))
    report = obedience([recorded, cut], lambda each: [walk(each.track)], fps=FPS)
    assert report["holds"]["1s"]["right"] == 3 and report["holds"]["1s"]["left"] == 2
