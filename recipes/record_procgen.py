"""Play a procgen game with a scripted player, and record clips with the keys that were held: clips for `reelm prepare`.

python3 -m venv recorder && recorder/bin/pip install procgen2==0.10.7 "gym==0.26.*" "numpy<2" "av>=18.1"
recorder/bin/python recipes/record_procgen.py coinrun --levels 0:600 --out clips

The game needs an older numpy than reelm: it has an environment of its own, and reelm does not depend on it. There are
no backgrounds, which leaves drawings that are CC0 (kenney.nl).

Each level is played until it is won or lost or for --seconds. Half of the recordings begin with the level, the others 5
s later, as its start is where players spend most time. They are cut into clips of --cut seconds, so that captions such
as "a coin run at night on grass, the player on a ledge, a saw in sight" tell what is there. recording.py says what
files a clip is; one of less than 2 s is left out.

The game takes 15 steps a second, one in each picture. The player has two hands: one holds left, right or
nothing, the other up, down or nothing, and each chooses anew after random times of half a second on average. It is in
one of three moods for some seconds each: it does mostly what leads on; it does anything; or it holds one key at a time,
or none. So every key is held in every situation, alone and together, and running jumps begin anywhere. It usually looks
a second ahead, and chooses again if it would lose.

`plainrun` is coinrun with one of its themes, which a small model learns sooner.

With --probes a clip is 66 s long, and the level is played again when it has ended: from second 0, 10 and 60 on each key
is held alone for a second, and nothing for another, where that does something: a look ahead tells that the player moves
or, without a key, comes to rest. What does nothing for 6 s is held at the end. `reelm evaluate play` reads such clips.

The same command writes the same files. Levels are numbered without end: those from 100000 on can be held out.
"""

import argparse
import dataclasses
import struct
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from recording import PROBE_SECONDS, PROBED_SECONDS, PROBES, Recording, main

FPS = 15
LATE_SECONDS = 5  # into the level, where half of the clips begin
HOLD_SECONDS, MOOD_SECONDS = 0.5, 3  # on average
MOODS = {"leads on": 0.45, "wanders": 0.2, "tries": 0.35}  # and how often each is
LOOKING, TRIES = 0.9, 6  # the share of the plans that are tried before they are played, and how many are
PROBED = ("", "left", "right", "up")
CELLS = 2.0  # how far a key moves the player at least where it does something
# The game's state has its map and, before it, its things, of which the player is the first.
SPACE, PLAYER, THING_BYTES, KIND_AT = 100, 0, 124, 24
END_OF_STATE = 0xCAFECAFE
# The keys of the game's first nine actions; the other six are buttons, which do nothing in these games.
ACTIONS = tuple(frozenset({across, along} - {""}) for across in ("left", "", "right") for along in ("down", "", "up"))
Held: TypeAlias = tuple[str, str, str]  # the key of each hand, "" for none, and the mood


@dataclass(frozen=True)
class Game:
    """What the player and the captions know about a game; `theme_at` is in bytes from the end of the game's state."""

    hands: tuple[dict[str, float], dict[str, float]]  # how often each holds a key; those that do nothing are left out
    caption: str
    player: str
    themes: tuple[str, ...]  # in the game's own order
    theme_at: int
    sights: dict[int, str]  # kinds of things
    view: tuple[float, float, float]  # how far it goes to the sides, up and down, in cells
    mode: str = "hard"
    one_theme: bool = False
    played_as: str = ""  # the name that procgen has for it, where it is another


COINRUN = Game(
    ({"right": 0.74, "left": 0.13, "": 0.13}, {"up": 0.5, "down": 0.08, "": 0.42}),  # down drops through crates
    caption="a coin run at night on {}",
    player="the player",
    themes=("dirt", "grass", "a planet", "sand", "snow", "stone"),
    theme_at=28,
    sights={1: "a coin", 2: "a saw", 5: "a monster", 17: "lava", 18: "lava", 20: "a crate"},
    view=(6.5, 6.5, 6.5),
)
GAMES = {
    "coinrun": COINRUN,
    "plainrun": dataclasses.replace(COINRUN, caption="a plain run at night", one_theme=True, played_as="coinrun"),
    "jumper": Game(
        ({"right": 0.45, "left": 0.45, "": 0.1}, {"up": 0.5, "": 0.5}),
        caption="a {} cave at night",
        player="the rabbit",
        themes=("blue", "green", "turquoise", "brown"),
        theme_at=12,
        sights={1: "a carrot"},
        view=(8, 8, 8),
        mode="memory",  # the others draw a compass over the picture
    ),
    "climber": Game(
        ({"right": 0.45, "left": 0.45, "": 0.1}, {"up": 0.6, "": 0.4}),
        caption="a {} tower at night",
        player="the climber",
        themes=("blue", "green", "turquoise", "brown"),
        theme_at=16,
        sights={1: "a coin", 5: "a monster"},
        view=(20, 18, 1.5),
    ),
}


def keys_of(held: Held) -> frozenset[str]:
    """Return the keys that the hands hold."""
    return frozenset(held[:2]) - {""}


def plan(game: Game, held: Held, pictures: int, rng: np.random.Generator) -> list[Held]:
    """Return what the player does in the next pictures. Changes do not depend on the past: it can be cut anywhere."""
    steps = []
    for _ in range(pictures):
        *hands, mood = held
        if rng.random() < 1 / (MOOD_SECONDS * FPS):
            mood = str(rng.choice(list(MOODS), p=list(MOODS.values())))
            if mood == "tries":
                hands = ["", ""]
        changes = rng.random(2) < 1 / (HOLD_SECONDS * FPS)
        if mood != "tries":
            for hand in np.flatnonzero(changes):
                weights = game.hands[hand]
                hands[hand] = str(rng.choice(list(weights), p=list(weights.values()) if mood == "leads on" else None))
        elif changes[0]:
            hands = list(hands_of(str(rng.choice([*PROBED, ""])))[:2])  # nothing is held twice as often as each key
        held = (hands[0], hands[1], mood)
        steps.append(held)
    return steps


def map_and_things(state: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the map of cells, its rows from the bottom up, and the places (n, 2) and kinds (n,) of the things."""
    for shift in range(4):
        values = np.frombuffer(state[shift : len(state) - (len(state) - shift) % 4], np.int32)
        wide, high, cells = values[:-2], values[1:-1], values[2:]
        fits = (wide >= 8) & (wide <= 80) & (high >= 8) & (high <= 80) & (wide * high == cells)
        for found in np.flatnonzero(fits):
            columns, rows, count = values[found : found + 3].tolist()
            grid = values[found + 3 : found + 3 + count].reshape(rows, columns)
            at = -1
            while (at := state.find(struct.pack("<I", count), at + 1)) >= 0:
                (things,) = struct.unpack_from("<I", state, at + 4)
                first = at + 8
                if not 0 < things <= count or first + things * THING_BYTES > len(state):
                    continue
                table = np.frombuffer(state, np.int32, things * THING_BYTES // 4, first).reshape(things, -1)
                if table[0, KIND_AT // 4] == PLAYER:
                    return grid, table[:, :2].copy().view(np.float32), table[:, KIND_AT // 4]
    raise ValueError("state: must have a map and things, got a state of another form; which version is it?")


def caption_of(game: Game, state: bytes) -> str:
    """Return the caption of a picture, from the state of the game: its theme, where the player is, what is there."""
    (theme,), (end,) = (struct.unpack_from("<I", state, len(state) - place) for place in (game.theme_at, 4))
    if end != END_OF_STATE or theme >= len(game.themes):
        raise ValueError("theme: must be in the state of the game, got a state of another form; which version is it?")
    grid, places, kinds = map_and_things(state)
    x, y = places[0].tolist()
    across, up, down = game.view
    rows, columns = np.indices(grid.shape)
    near = (abs(columns + 0.5 - x) < across) & (rows + 0.5 < y + up) & (rows + 0.5 > y - down)
    seen = set(np.unique(grid[near]).tolist())
    shown = (abs(places[:, 0] - x) < across) & (places[:, 1] < y + up) & (places[:, 1] > y - down)
    seen |= set(kinds[shown].tolist())
    sights = sorted({name for kind, name in game.sights.items() if kind in seen})
    in_sight = f", {' and '.join(sights)} in sight" if sights else ""
    return f"{game.caption.format(game.themes[theme])}, {game.player} {posture(grid, x, y)}{in_sight}"


def posture(grid: np.ndarray, x: float, y: float) -> str:
    """Return where a player at this place stands."""
    row, column = int(y), int(x)

    def solid(rows: int, columns: int) -> bool:
        inside = 0 <= row + rows < grid.shape[0] and 0 <= column + columns < grid.shape[1]
        return not inside or grid[row + rows, column + columns] in (6, 7, 15, 16)

    if not any(solid(-1, side) for side in (-1, 0, 1)) or y - row > 0.75:
        return "in the air"
    if solid(0, -1) or solid(0, 1):
        return "at a wall"
    return "on the ground" if solid(-1, -1) and solid(-1, 1) else "on a ledge"


def step(env: Any, held: Held) -> str:
    """Play until the next picture, and return "won" or "lost" if the level ended before it."""
    env.act(np.array([ACTIONS.index(keys_of(held))]))
    reward, _, first = env.observe()
    if first[0]:  # the picture that is there now is of the level's next start
        return "won" if reward[0] > 0 else "lost"
    return ""


def is_lost(env: Any, steps: list[Held]) -> bool:
    """Return whether a plan loses the level, and leave the game as it was."""
    state = env.get_state()
    end = next(filter(None, (step(env, held) for held in steps)), "")
    env.set_state(state)
    return end == "lost"


def hands_of(key: str) -> Held:
    """Return the hands that hold one key alone, or none."""
    return ("", key, "tries") if key in ("up", "down") else (key, "", "tries")


def does_something(env: Any, key: str) -> bool:
    """Return whether the player moves as the key says, or comes to rest without one; the game is left as it was."""
    state, places, ended = env.get_state(), [], ""
    for _ in range(PROBE_SECONDS * FPS):
        places.append(map_and_things(env.get_state()[0])[1][0])
        ended = ended or step(env, hands_of(key))
    env.set_state(state)
    path = np.array(places) - places[0]
    if not key:
        rest = path[len(path) // 2 :]
        return not ended and float(np.abs(rest - rest[0]).max()) < 0.05
    axis, sign = {"left": (0, -1), "right": (0, 1), "down": (1, -1), "up": (1, 1)}[key]
    return not ended and float((sign * path[:, axis]).max()) >= CELLS


class Prober:
    """What is held alone from the seconds `PROBES` on, and when."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._waiting, self._end = rng, [""], -1

    def next_key(self, env: Any, picture: int) -> str | None:
        """Return the key that is probed from this picture on, "" for none; None where the player is free."""
        if picture % FPS == 0 and picture // FPS in PROBES:
            self._waiting, self._end = self._rng.permutation(PROBED).tolist(), picture + PROBED_SECONDS * FPS
        if not self._waiting or picture >= self._end:
            return None
        late = self._end - picture <= len(self._waiting) * PROBE_SECONDS * FPS
        key = next((each for each in self._waiting if does_something(env, each)), self._waiting[0] if late else None)
        if key is not None:
            self._waiting.remove(key)
        return key


def choose(env: Any, game: Game, held: Held, rng: np.random.Generator) -> list[Held]:
    """Return what the player does next: a plan of which half is played, mostly one that does not lose."""
    for _ in range(TRIES):
        steps = plan(game, held, FPS, rng)
        if rng.random() >= LOOKING or not is_lost(env, steps):
            break
    return steps[: -(-FPS // 2)]


def play(name: str, level: int, options: argparse.Namespace) -> list[Recording]:
    """Play a level, and return its clips."""
    from procgen import ProcgenGym3Env  # pyright: ignore[reportMissingImports]

    game, rng = GAMES[name], np.random.default_rng((options.seed, level))
    env = ProcgenGym3Env(
        num=1, env_name=game.played_as or name, start_level=level, num_levels=1, rand_seed=0,
        num_threads=0, use_backgrounds=False, restrict_themes=game.one_theme, distribution_mode=game.mode,
    )  # fmt: skip
    start = (1 if options.probes else int(rng.integers(2))) * LATE_SECONDS * FPS
    prober = Prober(rng) if options.probes else None
    length = ((max(PROBES) + PROBED_SECONDS) if options.probes else options.seconds) * FPS
    cut = length if options.probes else options.cut * FPS
    held, result, shown = hands_of(""), "", 0
    clips: list[Recording] = []
    while (not result or options.probes) and shown < start + length:
        key = None if prober is None or shown < start else prober.next_key(env, shown - start)
        if key is not None:
            steps = [hands_of(key)] * (PROBE_SECONDS * FPS)
        else:
            steps = choose(env, game, held, rng)[: None if prober is None else 1]
        for held in steps:
            if start <= shown < start + length:
                if (shown - start) % cut == 0:
                    clips.append(Recording([], [], caption_of(game, env.get_state()[0])))
                clips[-1].pictures.append(env.observe()[1]["rgb"][0].copy())
                clips[-1].keys.append(sorted(keys_of(held)))
            shown += 1
            if result := step(env, held):
                break
    env.close()
    return clips


if __name__ == "__main__":
    main(__doc__, GAMES, play, fps=FPS)
