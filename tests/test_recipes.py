"""The scripts that record clips from games: what they do without the game."""

import importlib
import itertools
import struct
import sys
import types

import numpy as np
import pytest

from reelm.data.control_files import read_controls
from reelm.data.sources import find_sources, read_captions
from reelm.media.reader import read_clip


def script(root, name):
    """A script in recipes/ as a module; what the scripts share is beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root / "recipes")
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def recorder(root):
    """The recorder of procgen games."""
    return script(root, "record_procgen")


@pytest.fixture(scope="module")
def doom(root):
    """The recorder of ViZDoom worlds."""
    return script(root, "record_vizdoom")


def played(recorder, seed, pictures=4000, game="coinrun"):
    return recorder.plan(recorder.GAMES[game], recorder.hands_of(""), pictures, np.random.default_rng(seed))


def test_each_set_of_keys_is_one_action_of_the_game(recorder):
    # As the game has them: LEFT+DOWN, LEFT, LEFT+UP, DOWN, none, UP, RIGHT+DOWN, RIGHT, RIGHT+UP.
    told = ["down+left", "left", "left+up", "down", "", "up", "down+right", "right", "right+up"]
    assert ["+".join(sorted(keys)) for keys in recorder.ACTIONS] == told
    for hands in itertools.product(("left", "", "right"), ("down", "", "up")):
        keys = recorder.keys_of((*hands, "wanders"))
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
    for alone in recorder.PROBED:
        assert keys.count(frozenset({alone} - {""})) > 0.05 * len(keys)
    # A key that does nothing in a game is never held.
    assert not any("down" in held for held in played(recorder, 0, game="jumper"))


FLOOR = [(0, column) for column in range(16)]


def state_of(recorder, theme, things, walls=FLOOR):
    """The state of a coin run: things (x, y, kind), first of all the player, a map of 16 cells by 12, and a theme."""
    grid = np.full((12, 16), recorder.SPACE, np.int32)
    for row, column in walls:
        grid[row, column] = 16
    table = np.zeros((len(things), recorder.THING_BYTES // 4), np.int32)
    for row, (x, y, kind) in zip(table, things, strict=True):
        row[:2], row[recorder.KIND_AT // 4] = np.array([x, y], np.float32).view(np.int32), kind
    head = b"any" + struct.pack("<II", grid.size, len(things)) + table.tobytes()
    return head + struct.pack("<3i", 16, 12, grid.size) + grid.tobytes() + struct.pack("<i20xI", theme, 0xCAFECAFE)


def test_captions_tell_the_theme_the_place_and_what_is_in_sight(recorder):
    def caption(*arguments, **options):
        return recorder.caption_of(recorder.GAMES["coinrun"], state_of(recorder, *arguments, **options))

    player, far_crate = (4.5, 1.5, 0), (14.5, 1.5, 20)
    assert caption(3, [player]) == "a coin run at night on sand, the player on the ground"
    assert caption(1, [player, (8.5, 1.5, 2), (2.5, 3.5, 20), far_crate]).endswith("ground, a crate and a saw in sight")
    assert caption(1, [player, far_crate]).endswith("the player on the ground"), "it is too far to be seen"
    assert "in the air" in caption(0, [(4.5, 5.5, 0)])
    assert "on a ledge" in caption(0, [player], walls=[(0, 3), (0, 4)])
    assert "at a wall" in caption(0, [player], walls=[(0, 4), (1, 5)])


def test_a_state_of_another_version_is_refused(recorder):
    game, state = recorder.GAMES["coinrun"], state_of(recorder, 3, [(4.5, 1.5, 0)])
    for other in (state + bytes(4), state_of(recorder, 6, [(4.5, 1.5, 0)]), state[:20] + state[-28:]):
        with pytest.raises(ValueError, match="which version"):
            recorder.caption_of(game, other)


def test_probes_hold_each_key_alone_for_a_second(doom):
    held = doom.probes(("left", "right", "up"), 15, np.random.default_rng(0))
    assert len(held) == 3 * 4 * 15
    for start in (0, 10, 60):
        keys = [held[start * 15 + picture] for picture in range(60)]
        assert all(len(set(keys[first : first + 15])) == 1 for first in range(0, 60, 15))
        assert set(keys) == {"", "left", "right", "up"}
    with pytest.raises(ValueError, match="at most 5 to be probed, got 6"):
        doom.probes(tuple("abcdef"), 15, np.random.default_rng(0))


def test_the_parts_of_a_wad_are_listed(doom):
    parts = [b"MAP01", b"TEXTMAP", b"DRAWING1"]
    directory = b"".join(struct.pack("<II8s", 12, 0, name) for name in parts)
    wad = b"PWAD" + struct.pack("<II", len(parts), 12 + 5) + b"12345" + directory
    assert doom.lumps_of(wad) == {"MAP01", "TEXTMAP", "DRAWING1"}
    assert doom.lumps_of(wad) - doom.PLAIN_LUMPS == {"DRAWING1"}


def test_pictures_are_as_far_apart_as_they_can_be_and_of_the_middle_of_the_screen(doom):
    steps = [doom.steps_between(picture) for picture in range(1200)]
    assert sum(steps) == 3500 and set(steps) == {2, 3}
    screen = np.zeros((192, 256, 3), np.uint8)
    screen[:, 32:224] = np.arange(64, dtype=np.uint8).repeat(3)[None, :, None]
    assert np.array_equal(doom.picture_of(screen), np.broadcast_to(np.arange(64)[None, :, None], (64, 64, 3)))


def test_the_walker_is_seeded_goes_forward_turns_at_walls_and_tries_single_keys(doom):
    def walk(seed, blocked=False):
        walker = doom.Walker(np.random.default_rng(seed))
        return [walker.held(blocked) for _ in range(4000)]

    assert walk(1) == walk(1) != walk(2)
    free, at_walls = walk(1), walk(1, blocked=True)
    assert set().union(*free) == set(doom.KEYS) and frozenset() in free
    assert sum("w" in held for held in free) > 0.45 * len(free)
    turns, turns_at_walls = (sum(bool(held & {"j", "l"}) for held in walked) for walked in (free, at_walls))
    assert turns < 0.6 * len(free) and turns_at_walls > turns + 0.15 * len(free)
    for alone in (frozenset(), *(frozenset({key}) for key in doom.KEYS)):
        assert free.count(alone) > 0.05 * len(free)
    assert frozenset({"w", "s"}) not in map(frozenset({"w", "s"}).intersection, free)


class Game:
    """A game in place of procgen's: its picture tells the action before it, and the player walks on a floor."""

    actions: list[int]

    def __init__(self, recorder, ends_after):
        self.recorder, self.ends_after, self.steps, self.x, self.action, self.first = (
            recorder,
            ends_after,
            0,
            8.0,
            0,
            False,
        )

    def get_state(self):
        self.saved = (self.steps, self.x, self.action, self.first)
        return [state_of(self.recorder, 1, [(self.x, 1.5, 0)])]

    def set_state(self, state):
        self.steps, self.x, self.action, self.first = self.saved

    def observe(self):
        picture = np.full((1, 64, 64, 3), self.action, np.uint8)
        return np.array([10.0]), {"rgb": picture}, np.array([self.first])

    def act(self, action):
        self.steps, self.action = self.steps + 1, int(action[0])
        keys = self.recorder.ACTIONS[self.action]
        self.x = min(15.0, max(1.0, self.x + 0.3 * (("right" in keys) - ("left" in keys))))
        self.first = self.steps % self.ends_after == 0

    def close(self):
        pass


def record(recorder, monkeypatch, ends_after, game="coinrun", **options):
    module = types.ModuleType("procgen")
    module.ProcgenGym3Env = lambda **settings: begun.append(settings) or Game(recorder, ends_after)
    begun: list[dict] = []
    monkeypatch.setitem(sys.modules, "procgen", module)
    clips = recorder.play(
        game, 3, types.SimpleNamespace(**{"seed": 0, "seconds": 20, "cut": 4, "probes": False} | options)
    )
    (settings,) = begun
    assert settings["env_name"] == "coinrun" and settings["start_level"] == 3 and not settings["use_backgrounds"]
    assert settings["restrict_themes"] == (game == "plainrun")
    return clips


def test_what_is_held_during_a_picture_is_what_the_next_one_shows(recorder, monkeypatch):
    clips = record(recorder, monkeypatch, ends_after=10**6)
    assert [len(clip.pictures) for clip in clips] == [60] * 5
    assert all(clip.caption.startswith("a coin run at night on grass, the player") for clip in clips)
    pictures = [picture for clip in clips for picture in clip.pictures]
    keys = [held for clip in clips for held in clip.keys]
    for held, after in zip(keys, pictures[1:], strict=False):
        assert sorted(recorder.ACTIONS[after[0, 0, 0]]) == held
    assert len({tuple(held) for held in keys}) > 5


def test_a_plain_run_is_told_without_a_theme(recorder, monkeypatch):
    clips = record(recorder, monkeypatch, ends_after=10**6, game="plainrun")
    assert all(clip.caption.startswith("a plain run at night, the player") for clip in clips)


def test_a_level_that_ends_ends_its_clips_and_a_probed_one_is_played_again(recorder, monkeypatch):
    assert sum(len(clip.pictures) for clip in record(recorder, monkeypatch, ends_after=100)) in (25, 100)
    (clip,) = record(recorder, monkeypatch, ends_after=700, probes=True)
    assert len(clip.pictures) == len(clip.keys) == 66 * 15
    for start in (0, 10, 60):
        inside = clip.keys[start * 15 : (start + 6) * 15]
        runs = [(held, sum(1 for _ in group)) for held, group in itertools.groupby(map(tuple, inside))]
        assert {held for held, count in runs if count >= 14} >= {("right",), ("left",), ()}


def test_clips_are_written_as_prepare_reads_them(recorder, root, tmp_path, monkeypatch, capsys):
    recording = script(root, "recording")
    pictures = [np.full((64, 64, 3), 4 * number, np.uint8) for number in range(30)]
    clips = [
        recording.Recording(pictures, [["right"]] * 29 + [[]], "a test"),
        recording.Recording(pictures[:5], [[]] * 5, ""),
    ]
    monkeypatch.setattr(sys, "argv", ["record", "game", "--levels", "7:8", "--out", str(tmp_path / "clips")])
    recording.main("A test.", ["game"], lambda name, level, options: clips, fps=15)
    assert "1 clips of 1 levels: 30 pictures" in capsys.readouterr().out, "the one that is too short is left out"
    (source,) = find_sources(tmp_path / "clips").sources
    assert source.name == "game-000007-00.mp4" and read_captions(source) == ("a test",)
    track = read_controls(source).track
    assert track.keys == (frozenset({"right"}),) * 29 + (frozenset(),)
    frames = read_clip(source.path).frames_THW3.numpy()
    assert np.abs(frames.astype(int) - np.stack(pictures)).max() <= 2
    with pytest.raises(SystemExit):
        recording.main("A test.", ["game"], lambda name, level, options: clips, fps=15)
