"""The scripts that record clips from games: what they do without the game."""

import importlib.util
import itertools
import struct

import numpy as np
import pytest


@pytest.fixture(scope="module")
def recorder(root):
    """The script recipes/record_procgen.py as a module."""
    specification = importlib.util.spec_from_file_location("record_procgen", root / "recipes" / "record_procgen.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def played(recorder, seed, pictures=4000, game="coinrun"):
    return recorder.plan(recorder.GAMES[game], ("", "", False), pictures, 15, np.random.default_rng(seed))


def test_each_set_of_keys_is_one_action_of_the_game(recorder):
    # As the game has them: LEFT+DOWN, LEFT, LEFT+UP, DOWN, none, UP, RIGHT+DOWN, RIGHT, RIGHT+UP.
    told = ["down+left", "left", "left+up", "down", "", "up", "down+right", "right", "right+up"]
    assert ["+".join(sorted(keys)) for keys in recorder.ACTIONS] == told
    for hands in itertools.product(("left", "", "right"), ("down", "", "up")):
        keys = recorder.keys_of((*hands, False))
        assert recorder.ACTIONS[recorder.ACTIONS.index(keys)] == keys


def test_the_player_is_seeded(recorder):
    assert played(recorder, 3) == played(recorder, 3)
    assert played(recorder, 3) != played(recorder, 4)


def test_each_set_of_keys_is_held_and_for_half_a_second_or_more(recorder):
    steps = played(recorder, 0)
    keys = [recorder.keys_of(held) for held in steps]
    assert set(keys) == set(recorder.ACTIONS)
    for hand in (0, 1):
        changes = sum(before[hand] != after[hand] for before, after in itertools.pairwise(steps))
        assert 0.5 < len(steps) / changes / 15 < 2
    # A key that does nothing in a game is never held.
    assert not any("down" in held for held in played(recorder, 0, game="jumper"))


def test_the_theme_is_read_from_the_state_of_the_game(recorder):
    game = recorder.GAMES["coinrun"]
    state = b"any" + struct.pack("<i20xI", 3, 0xCAFECAFE)
    assert recorder.caption_of(game, state) == "a coin run on sand"
    with pytest.raises(ValueError, match="which version"):
        recorder.caption_of(game, state + bytes(4))
    with pytest.raises(ValueError, match="which version"):
        recorder.caption_of(game, struct.pack("<i20xI", 6, 0xCAFECAFE))
