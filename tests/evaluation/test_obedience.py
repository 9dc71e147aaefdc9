"""The judge of what keys do: motions that are known to the pixel, holds, effects, and models of which it is known."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.controls import ControlTrack, read_written
from reelm.core.errors import ReelmError
from reelm.evaluation.motion import GROWTHS, REACH, find_cuts, measure_motion
from reelm.evaluation.obedience import Effect, Hold, MeasuredHold, find_holds, learn_effects, measure_holds
from reelm.evaluation.obedience_report import obedience
from reelm.evaluation.recorded_plays import RecordedPlay
from reelm.tests.examples import examples

FPS = 15
TRACK = read_written("right-15,none-15,left-15,none-15,up-15,none-15")
TRACK = ControlTrack(TRACK.keys + read_written("up-15,left-15,right-15,none-2").keys)


@functools.cache
def world(seed=0):
    """A plain wall with boxes, 400 x 400."""
    rng, picture = np.random.default_rng(seed), np.full((400, 400, 3), 40, np.uint8)
    for _ in range(400):
        row, column = rng.integers(0, 390, 2)
        picture[row : row + 9, column : column + 9] = rng.integers(0, 256, 3)
    return picture


def walk(track, *, speed=2, obeys=lambda key, picture: True, late=0, seed=0):
    """Pictures 48 x 48 of a camera that goes right, left and up under the keys, with a sprite in the middle."""
    place, frames = np.array([200, 200]), []
    steps = {"right": (0, 1), "left": (0, -1), "up": (-1, 0)}
    for picture in range(len(track)):
        frame = world(seed)[place[0] : place[0] + 48, place[1] : place[1] + 48].copy()
        frame[21:27, 21:27] = (255, 0, 0)
        frames.append(frame)
        for key in track.keys[picture - late] if picture >= late else ():
            if obeys(key, picture):
                place = place + speed * np.array(steps[key])
    return np.stack(frames)


# ---- motion


@examples(60)
@given(st.integers(-REACH, REACH), st.integers(-REACH, REACH), st.integers(0, 3))
def test_scrolls_are_measured_to_the_pixel(right, down, seed):
    picture = world(seed)
    pair = np.stack([picture[100:164, 100:164], picture[100 - down : 164 - down, 100 - right : 164 - right]])
    pair[:, 28:36, 28:36] = (255, 0, 0)
    moved, fit = measure_motion(pair)
    assert moved.tolist() == [[right, down, 0]] and fit[0] < 3


@pytest.mark.parametrize("growth", GROWTHS)
def test_a_scene_that_comes_nearer_or_goes_away_is_measured(growth):
    """A picture that is resampled about its middle, so that the middles of its edges move by this many pixels."""
    at = 119 + np.round((np.arange(64) - 31.5) / np.exp(growth / 32) + 31.5).astype(int)
    pair = np.stack([world()[119:183, 119:183], world()[at[:, None], at]])
    assert measure_motion(pair)[0].tolist() == [[0, 0, growth]]


def test_pixels_are_those_of_pictures_of_64_pixels():
    pair = np.stack([world()[100:164, 100:170], world()[100:164, 103:173]])
    large = pair.repeat(3, 1).repeat(3, 2)
    assert measure_motion(pair)[0].tolist() == measure_motion(large)[0].tolist() == [[-3, 0, 0]]


def test_plain_pictures_do_not_move_and_neither_does_a_still_scene_with_something_at_its_edge():
    plain = np.full((3, 64, 64, 3), 90, np.uint8)
    assert not measure_motion(plain)[0].any() and not measure_motion(plain)[1].any()
    assert [part.shape for part in measure_motion(plain[:1])] == [(0, 3), (0,)]
    still = np.stack([world()[100:164, 100:164]] * 8)
    still[:, -8:] = np.random.default_rng(0).integers(0, 256, still[:, -8:].shape)
    assert not measure_motion(still)[0].any()


def test_pictures_that_nothing_explains_do_not_move():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (20, 64, 64, 3), np.uint8)
    assert not measure_motion(noise)[0].any()


def test_a_new_scene_is_found_and_fast_motion_is_none():
    frames = np.concatenate([walk(TRACK)[:40], walk(TRACK, seed=2)[:40]])
    assert np.flatnonzero(find_cuts(measure_motion(frames)[1])).tolist() == [39]
    assert not find_cuts(measure_motion(walk(TRACK[:60], speed=7))[1]).any() and not len(find_cuts(np.zeros(0)))


# ---- holds and effects


def test_holds_are_of_one_key_long_enough_a_second_of_each_and_without_turns():
    track = read_written("right-40,right+up-20,none-13,left-14")
    assert find_holds(track, fps=15) == [Hold("right", 0, 15), Hold("left", 73, 87)]
    turns = ControlTrack((frozenset(),) * 40, {"turn": (0.0,) * 20 + (5.0,) * 20})
    assert find_holds(turns, fps=15) == [Hold("", 0, 15)]


def measured(track=TRACK, **options):
    return measure_holds(walk(track, **options), find_holds(track[: len(track) - 1], fps=FPS))


def test_what_keys_do_is_read_off_the_game():
    effects = learn_effects(measured() * 3)
    assert {key: effect.direction for key, effect in effects.items()} == {
        "right": "left",
        "left": "right",
        "up": "down",
    }
    assert all(effect.least == 15 for effect in effects.values()), "half of 30 pixels"
    walls = learn_effects([*measured() * 3, *measured(obeys=lambda key, _: False) * 4])
    assert walls["right"].least == 15, "holds at a wall do not lower it"
    assert "up" not in learn_effects(measured(obeys=lambda key, _: key != "up") * 3), "what does nothing has no effect"
    assert learn_effects(measured() * 2) == {}, "four holds of a key are too few"
    for each in measured():
        assert each.rests if not each.hold.key else effects[each.hold.key].shown_in(each)
        assert each.delay("left") == (1 if each.hold.key == "right" else None)


def test_a_scene_that_moves_too_little_or_more_the_other_way_does_not_show_the_effect():
    def shown(*rights):
        path = tuple((float(right), 0.0, 0.0) for right in rights)
        return Effect("left", 10.0).shown_in(MeasuredHold(Hold("right", 0, 2), path))

    assert shown(0, -5, -10) and not shown(0, -5, -9) and not shown(0, -12, 13)


# ---- models


def play(track=TRACK, name="a", **options):
    frames, holds = walk(track, **options), find_holds(track[: len(track) - 1], fps=FPS)
    return RecordedPlay(name, "a wall", frames[0], track, tuple(measure_holds(frames, holds, cuts=True)))


@functools.cache
def plays():
    """The plays of the game."""
    return [play(name=f"{number}", seed=number) for number in range(3)]


def report(model, recorded=None, chosen=None):
    return obedience(recorded or plays(), chosen or plays()[:2], model, fps=FPS)


def test_the_game_obeys_itself_and_a_model_as_often_as_it_does():
    """The twin of a model: clips of which it is known when they obey."""
    whole = report(lambda each: [walk(each.track, seed=1)])
    assert whole["obeys"]["1s"] == {"left": 1.0, "right": 1.0, "up": 1.0, "all": 1.0}
    assert whole["still_without_keys"] == {"1s": 1.0, "10s": None, "60s": None}
    assert whole["figures"]["1s"]["up"]["holds"] == 2 and whole["figures"]["10s"]["up"]["holds"] == 0
    assert whole["obeys"]["60s"] == {"left": None, "right": None, "up": None, "all": None}
    assert whole["delay_pictures"] == {"game": 1, "model": 1}

    half = report(lambda each: [walk(each.track, obeys=lambda key, _: key != "left"), walk(each.track)])
    assert half["obeys"]["1s"] == {"left": 0.5, "right": 1.0, "up": 1.0, "all": pytest.approx(2.5 / 3)}


def other_keys(track):
    """The same holds with each key in another one's place."""
    swapped = {"right": "up", "up": "left", "left": "right"}
    return ControlTrack(tuple(frozenset(swapped[key] for key in keys) for keys in track.keys))


@pytest.mark.parametrize("name", ["backwards", "noise", "shuffled", "one way", "other keys", "frozen", "shaking"])
def test_models_that_do_not_obey(name):
    """Whatever a model does, it obeys only if it does it when the key is held, and not otherwise."""
    rng = np.random.default_rng(0)

    def model(each):
        frames = walk(each.track)
        if name == "backwards":
            return [walk(each.track, speed=-2)]
        if name == "noise":
            return [rng.integers(0, 256, frames.shape, np.uint8)]
        if name == "shuffled":
            return [rng.permutation(frames)]
        if name == "one way":
            return [walk(read_written(f"right-{len(each.track)}"), speed=1)]
        if name == "other keys":
            return [walk(other_keys(each.track))]
        if name == "frozen":
            return [np.broadcast_to(frames[0], frames.shape)]
        return [
            np.stack([world()[200 + a : 248 + a, 200 + b : 248 + b] for a, b in rng.integers(-4, 5, (len(frames), 2))])
        ]

    result = report(model)
    assert max(result["obeys"]["1s"].values()) <= 0.35, result["figures"]["1s"]
    if name not in ("backwards", "other keys"):
        assert result["still_without_keys"]["1s"] <= 0.35, result["figures"]["1s"]["none"]
        assert result["return_psnr"]["model"] is None


def test_a_late_answer_is_seen():
    late = report(lambda each: [walk(each.track, late=6)])
    assert late["delay_pictures"] == {"game": 1, "model": 7}
    later = report(lambda each: [walk(each.track, late=12)])
    assert later["obeys"]["1s"]["all"] < 0.5 and later["still_without_keys"]["1s"] < 0.5


def test_a_walk_there_and_back_comes_back():
    result = report(lambda each: [walk(each.track)])
    assert result["return_psnr"]["game"] > 50 and result["return_psnr"]["model"] > 50
    # Back in another world.
    swapped = report(lambda each: [np.concatenate([walk(each.track)[:106], walk(each.track, seed=3)[106:]])])
    assert swapped["return_psnr"]["model"] < 25


def test_worlds_have_effects_of_their_own():
    """In one a key moves the scene, in the other it does nothing, and is not judged there."""
    others = [play(name=f"other/{n}", seed=n, speed=3, obeys=lambda key, _: key != "up") for n in range(3)]
    result = obedience(
        plays() + others,
        [plays()[0], others[0]],
        lambda each: [walk(each.track, speed=3 if each.world else 2)],
        fps=FPS,
    )
    assert set(result["effects"][""]) == {"right", "left", "up"} and set(result["effects"]["other"]) == {
        "right",
        "left",
    }
    assert result["effects"]["other"]["right"]["least"] > result["effects"][""]["right"]["least"]
    holds = {key: row["holds"] for key, row in result["figures"]["1s"].items()}
    assert holds == {"left": 2, "right": 2, "up": 1, "none": 6}
    assert result["without_effect"] == []


def test_holds_in_which_the_game_begins_anew_are_left_out_on_both_sides():
    frames, holds = walk(TRACK), [each.hold for each in plays()[0].measured]
    frames = np.concatenate([frames[:8], walk(TRACK, seed=2)[8:]])
    cut = RecordedPlay("b", "a wall", frames[0], TRACK, tuple(measure_holds(frames, holds, cuts=True)))
    result = obedience(plays(), [plays()[0], cut], lambda each: [walk(each.track)], fps=FPS)
    assert result["figures"]["1s"]["right"]["holds"] == 1 and result["figures"]["1s"]["left"]["holds"] == 2


def test_recordings_in_which_no_key_does_anything_are_refused():
    still = [play(obeys=lambda key, _: False)] * 5
    with pytest.raises(ReelmError, match=r"^recordings: must have keys that move the scene"):
        report(lambda each: [walk(each.track)], recorded=still, chosen=still)
