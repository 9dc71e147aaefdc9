"""Walk through ViZDoom worlds with a scripted player, and record clips with the keys that were held.

python3 -m venv recorder && recorder/bin/pip install vizdoom==1.3.2 "av>=18.1"
recorder/bin/python recipes/record_vizdoom.py maze --levels 0:100 --out clips

reelm does not depend on the game: it has an environment of its own. The worlds are scenarios of the package that hold a
map and scripts and no drawings, which is checked; what is seen is Freedoom's (freedoom.github.io), under its BSD
licence. The picture is the middle of the screen, 64x64, without weapon and figures, and the player is not hurt.

A level is a seed of the world and of the player; those from 100000 on can be held out. The keys are w and s (forward
and back) and j and l (turn left and right). The game takes 35 steps a second and the clip has 12 pictures a second, so
that two or three steps pass between two of them. recording.py says what files a clip is. Captions tell the world,
whether there is a wall ahead, and what lies in sight: "a maze of grey walls, a wall ahead, a medkit in sight".

The player is in one of three moods for some seconds each: it explores, which is to go forward and to turn now and then,
mostly away from walls; it does anything; or it holds one key at a time, or none. With --probes each key is held alone
for a second at 0, 10 and 60 s, as `reelm evaluate play` wants it. The same command writes the same files.
"""

import argparse
import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from recording import Recording, main, probes

FPS, TICS = 12, 35  # pictures and steps of the game, a second
SIZE, SCALE = 64, 3  # the picture, and how many pixels of the screen make one of it, across and down
TURN = 2.0  # degrees in a step
KEYS = ("w", "s", "j", "l")
LATEST_SECONDS = 10  # into the world, where a recording begins at the latest
HOLD_SECONDS, MOOD_SECONDS = 0.7, 3  # on average
MOODS = {"explores": 0.5, "wanders": 0.2, "tries": 0.3}  # and how often each is
NEAR = 12  # of 255 in the depth of the picture: there is a wall ahead
# What a world without drawings of its own holds.
PLAIN_LUMPS = {"MAP01", "TEXTMAP", "BEHAVIOR", "DIALOGUE", "ZNODES", "SCRIPTS", "ENDMAP", "DECORATE"}


@dataclass(frozen=True)
class World:
    """A scenario of the package, and its caption."""

    scenario: str
    caption: str


GAMES = {
    "maze": World("health_gathering_supreme", "a maze of grey walls"),
    "yard": World("health_gathering", "a yard with green walls"),
    "halls": World("my_way_home", "halls of many rooms"),
}
SIGHTS = {"Medikit": "a medkit", "CustomMedikit": "a medkit", "Poison": "a vial", "GreenArmor": "an armour"}


def lumps_of(wad: bytes) -> set[str]:
    """Return the names of the parts of a WAD file."""
    count, first = struct.unpack_from("<II", wad, 4)
    return {wad[at + 8 : at + 16].rstrip(b"\0").decode() for at in range(first, first + 16 * count, 16)}


def steps_between(picture: int) -> int:
    """Return the steps of the game from this picture to the next."""
    return (picture + 1) * TICS // FPS - picture * TICS // FPS


class Walker:
    """The scripted player: two hands, which hold forward, back or nothing, and a turn or nothing."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._walk, self._turn, self._mood = rng, "w", "", "explores"

    def held(self, blocked: bool) -> frozenset[str]:
        """Return what is held now; a player that explores and is blocked turns, and then goes on."""
        rng = self._rng
        if rng.random() < 1 / (MOOD_SECONDS * FPS):
            self._mood = str(rng.choice(list(MOODS), p=list(MOODS.values())))
        walk_changes, turn_changes = rng.random(2) < 1 / (HOLD_SECONDS * FPS)
        if self._mood == "tries":
            if walk_changes:
                key = str(rng.choice(["", *KEYS]))
                self._walk, self._turn = (key, "") if key in ("w", "s") else ("", key)
            elif self._walk and self._turn:
                self._turn = ""
            return frozenset({self._walk, self._turn}) - {""}
        explores = self._mood == "explores"
        if explores and blocked and not self._turn and rng.random() < 0.5:
            self._turn = str(rng.choice(["j", "l"]))
        if walk_changes:
            self._walk = str(rng.choice(["w", "s", ""], p=[0.8, 0.06, 0.14] if explores else [1 / 3] * 3))
        if turn_changes and not (explores and blocked and self._turn):
            self._turn = str(rng.choice(["j", "l", ""], p=[0.2, 0.2, 0.6] if explores else [1 / 3] * 3))
        return frozenset({self._walk, self._turn}) - {""}


def open_game(world: World, seed: int, settings: Path) -> Any:
    """Return the game, started, without a window; it writes its settings to a file."""
    import vizdoom as vd  # pyright: ignore[reportMissingImports]

    package = Path(os.path.dirname(vd.__file__))
    others = lumps_of((package / "scenarios" / f"{world.scenario}.wad").read_bytes()) - PLAIN_LUMPS
    if others:
        raise ValueError(f"{world.scenario}: must hold a map and scripts alone, got {sorted(others)}")
    game = vd.DoomGame()
    game.load_config(str(package / "scenarios" / f"{world.scenario}.cfg"))
    game.set_doom_game_path(str(package / "freedoom2.wad"))
    game.set_screen_resolution(vd.ScreenResolution.RES_256X192)
    game.set_screen_format(vd.ScreenFormat.RGB24)
    for part in ("hud", "weapon", "crosshair", "decals", "particles", "messages", "corpses", "effects_sprites"):
        getattr(game, f"set_render_{part}")(False)
    game.set_window_visible(False)
    game.set_labels_buffer_enabled(True)
    game.set_depth_buffer_enabled(True)
    button = vd.Button
    game.set_available_buttons([button.MOVE_FORWARD, button.MOVE_BACKWARD, button.TURN_LEFT_RIGHT_DELTA])
    game.set_episode_timeout(10**6)
    game.add_game_args("+sv_cheats 1")
    game.set_doom_config_path(str(settings))
    game.set_seed(seed)
    game.init()
    game.send_game_command("god")
    return game


def picture_of(screen: np.ndarray) -> np.ndarray:
    """Return the middle of the screen (192, 256, 3) as a picture (64, 64, 3): the mean of each 3 x 3 pixels."""
    side = SIZE * SCALE
    left = (screen.shape[1] - side) // 2
    blocks = screen[:side, left : left + side].reshape(SIZE, SCALE, SIZE, SCALE, 3)
    return blocks.mean((1, 3)).round().astype(np.uint8)


def wall_ahead(state: Any) -> bool:
    """Return whether there is a wall in the middle of the picture."""
    rows, columns = state.depth_buffer.shape
    middle = state.depth_buffer[rows // 2 - 4 : rows // 2 + 4, columns // 2 - 16 : columns // 2 + 16]
    return bool(np.median(middle) < NEAR)


def caption_of(world: World, state: Any) -> str:
    """Return the caption of a picture: the world, whether there is a wall ahead, and what is in sight."""
    columns = state.depth_buffer.shape[1]
    left, right = (columns - SIZE * SCALE) // 2, (columns + SIZE * SCALE) // 2
    seen = {label.object_name for label in state.labels if label.x < right and label.x + label.width > left}
    sights = sorted({name for kind, name in SIGHTS.items() if kind in seen})
    in_sight = f", {' and '.join(sights)} in sight" if sights else ""
    return f"{world.caption}, {'a wall ahead' if wall_ahead(state) else 'the way is free'}{in_sight}"


def play(name: str, level: int, options: argparse.Namespace) -> list[Recording]:
    """Walk through a world, and return the clips."""
    with tempfile.TemporaryDirectory() as folder:  # the game would read, and write, settings of the current folder
        game = open_game(GAMES[name], level, Path(folder) / "vizdoom.ini")
        try:
            return walk(game, GAMES[name], np.random.default_rng((options.seed, level)), options)
        finally:
            game.close()


def walk(game: Any, world: World, rng: np.random.Generator, options: argparse.Namespace) -> list[Recording]:
    """Walk through a game, and return the clips."""
    walker = Walker(rng)
    start = int(rng.integers(LATEST_SECONDS * FPS))
    probed = probes(KEYS, FPS, rng) if options.probes else {}
    length = max(probed) + 1 if probed else options.seconds * FPS
    cut, blocked = length if probed else options.cut * FPS, False
    clips: list[Recording] = []
    for shown in range(start + length):
        if game.is_episode_finished():  # the armour in the last room was found
            if clips and not options.probes:
                break
            game.new_episode()
            game.send_game_command("god")
        state, at = game.get_state(), shown - start
        held = walker.held(blocked)
        if at in probed:
            held = frozenset({probed[at]}) - {""}
        if at >= 0:
            if at % cut == 0:
                clips.append(Recording([], [], caption_of(world, state)))
            clips[-1].pictures.append(picture_of(state.screen_buffer))
            clips[-1].keys.append(sorted(held))
        blocked = wall_ahead(state)
        turn = TURN * (("l" in held) - ("j" in held))
        game.make_action(["w" in held, "s" in held, turn], steps_between(shown))
    return clips


if __name__ == "__main__":
    main(__doc__, GAMES, play, fps=FPS)
