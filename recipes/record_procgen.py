"""Play a procgen game with a scripted player, and record clips with the keys that were held: clips for `reelm prepare`.

python3 -m venv recorder && recorder/bin/pip install procgen2==0.10.7 "gym==0.26.*" "numpy<2" "av>=18.1"
recorder/bin/python recipes/record_procgen.py coinrun --levels 0:600 --out clips

The game needs an older numpy than reelm: it has an environment of its own, and reelm does not depend on it. There are
no backgrounds, which leaves drawings that are CC0 (kenney.nl).

Each level is a clip, until it is won or lost or for --seconds; one of less than 2 s is left out. Half of the clips
begin with the level, the others 5 s later, as its start is where players spend most time. A clip is three files:

    coinrun-000012.mp4      64x64, H.264 without subsampling and nearly without loss, --fps pictures a second
    coinrun-000012.jsonl    for each picture {"keys": [...]}, held while it is shown: the next one shows what they do
    coinrun-000012.txt      a caption, such as "a coin run on grass"

The game takes 15 steps a second, one in each picture at 15 fps. The player has two hands: one holds left, right or
nothing, the other up, down or nothing, and each chooses anew after random times of half a second on average, mostly
what leads on, and in some seconds anything. So every key is held in every situation, and running jumps begin anywhere.
It usually looks a second ahead, and chooses again if it would lose.

The same command writes the same files. Levels are numbered without end: those from 100000 on can be held out.
"""

import argparse
import collections
import json
import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

STEPS_PER_SECOND = 15
SHORTEST_SECONDS = 2
LATE_SECONDS = 5  # into the level, where half of the clips begin
HOLD_SECONDS, MOOD_SECONDS = 0.5, 3  # on average
WANDERING = 0.25  # the share of the time in which a hand holds all of its keys equally often
LOOKING, TRIES = 0.9, 6  # the share of the plans that are tried before they are played, and how many are
END_OF_STATE = 0xCAFECAFE
# The keys of the game's first nine actions; the other six are buttons, which do nothing in these games.
ACTIONS = tuple(frozenset({across, along} - {""}) for across in ("left", "", "right") for along in ("down", "", "up"))
Held: TypeAlias = tuple[str, str, bool]  # the key of each hand, "" for none, and whether the player wanders


@dataclass(frozen=True)
class Game:
    """What the player and the captions know about a game; `theme_at` is in bytes from the end of the game's state."""

    hands: tuple[dict[str, float], dict[str, float]]  # how often each holds a key; those that do nothing are left out
    caption: str
    themes: tuple[str, ...]  # in the game's own order
    theme_at: int
    mode: str = "hard"


GAMES = {
    "coinrun": Game(
        ({"right": 0.74, "left": 0.13, "": 0.13}, {"up": 0.5, "down": 0.08, "": 0.42}),  # down drops through crates
        caption="a coin run on {}",
        themes=("dirt", "grass", "a planet", "sand", "snow", "stone"),
        theme_at=28,
    ),
    "jumper": Game(
        ({"right": 0.45, "left": 0.45, "": 0.1}, {"up": 0.5, "": 0.5}),
        caption="a rabbit jumps in the {} theme",
        themes=("blue", "green", "yellow", "brown"),
        theme_at=12,
        mode="memory",  # the others draw a compass over the picture
    ),
}


def keys_of(held: Held) -> frozenset[str]:
    """Return the keys that the hands hold."""
    return frozenset(held[:2]) - {""}


def plan(game: Game, held: Held, pictures: int, fps: int, rng: np.random.Generator) -> list[Held]:
    """Return what the player does in the next pictures. Changes do not depend on the past: it can be cut anywhere."""
    steps = []
    for _ in range(pictures):
        *hands, wanders = held
        if rng.random() < 1 / (MOOD_SECONDS * fps):
            wanders = bool(rng.random() < WANDERING)
        for hand, weights in enumerate(game.hands):
            if rng.random() < 1 / max(1, HOLD_SECONDS * fps):
                hands[hand] = str(rng.choice(list(weights), p=None if wanders else list(weights.values())))
        held = (hands[0], hands[1], wanders)
        steps.append(held)
    return steps


def caption_of(game: Game, state: bytes) -> str:
    """Return the caption of a level, from the state of the game at its start."""
    (theme,), (end,) = (struct.unpack_from("<I", state, len(state) - place) for place in (game.theme_at, 4))
    if end != END_OF_STATE or theme >= len(game.themes):
        raise ValueError("theme: must be in the state of the game, got a state of another form; which version is it?")
    return game.caption.format(game.themes[theme])


def step(env: Any, held: Held, fps: int) -> str:
    """Play until the next picture, and return "won" or "lost" if the level ended before it."""
    for _ in range(STEPS_PER_SECOND // fps):
        env.act(np.array([ACTIONS.index(keys_of(held))]))
        reward, _, first = env.observe()
        if first[0]:  # the picture that is there now is of the level's next start
            return "won" if reward[0] > 0 else "lost"
    return ""


def is_lost(env: Any, steps: list[Held], fps: int) -> bool:
    """Return whether a plan loses the level, and leave the game as it was."""
    state = env.get_state()
    end = next(filter(None, (step(env, held, fps) for held in steps)), "")
    env.set_state(state)
    return end == "lost"


def play(name: str, level: int, options: argparse.Namespace) -> tuple[list[np.ndarray], list[list[str]], str]:
    """Play a level, and return its pictures, the keys that were held while each was shown, and its caption."""
    from procgen import ProcgenGym3Env  # pyright: ignore[reportMissingImports]

    game, fps, rng = GAMES[name], options.fps, np.random.default_rng((options.seed, level))
    env = ProcgenGym3Env(
        num=1, env_name=name, start_level=level, num_levels=1, rand_seed=0, num_threads=0,
        use_backgrounds=False, distribution_mode=game.mode,
    )  # fmt: skip
    caption = caption_of(game, env.get_state()[0])
    start = int(rng.integers(2)) * LATE_SECONDS * fps
    end = start + options.seconds * fps
    held, result = ("", "", False), ""
    pictures: list[np.ndarray] = []
    keys: list[list[str]] = []
    while not result and len(pictures) < end:
        for _ in range(TRIES):
            steps = plan(game, held, fps, fps, rng)
            if rng.random() >= LOOKING or not is_lost(env, steps, fps):
                break
        for held in steps[: -(-fps // 2)]:
            pictures.append(env.observe()[1]["rgb"][0].copy())
            keys.append(sorted(keys_of(held)))
            if result := step(env, held, fps):
                break
    env.close()
    return pictures[start:end], keys[start:end], caption


def write_mp4(path: Path, pictures: list[np.ndarray], fps: int) -> None:
    """Write pictures as H.264: 4:4:4, BT.709, nearly without loss."""
    import av

    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10", "preset": "medium", "bf": "0"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.gop_size, stream.thread_count = "yuv444p", fps, 1
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = context.color_range = 1
        for index, picture in enumerate(pictures):
            rgb = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = rgb.reformat(format="yuv444p", dst_colorspace="ITU709", dst_color_range="MPEG")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def main() -> None:
    """Record the clips, and print how many there are and how often each set of keys was held."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("game", nargs="?", default="coinrun", choices=GAMES)
    parser.add_argument("--levels", default="0:300", help="FIRST:LAST, without LAST")
    parser.add_argument("--seconds", type=int, default=20, help="the longest clip")
    parser.add_argument("--fps", type=int, default=STEPS_PER_SECOND, choices=(15, 5, 3), help="pictures a second")
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--seed", type=int, default=0, help="of the player; the levels do not depend on it")
    options = parser.parse_args()
    first, last = map(int, options.levels.split(":"))
    options.out.mkdir(parents=True, exist_ok=True)
    if any(options.out.iterdir()):
        parser.error(f"--out must be a new or empty folder, got {str(options.out)!r}")
    clips, counts = 0, collections.Counter[str]()
    for level in range(first, last):
        pictures, held, caption = play(options.game, level, options)
        if len(pictures) < SHORTEST_SECONDS * options.fps:
            continue
        path = options.out / f"{options.game}-{level:06d}"
        write_mp4(path.with_suffix(".mp4"), pictures, options.fps)
        path.with_suffix(".jsonl").write_text("".join(json.dumps({"keys": keys}) + "\n" for keys in held))
        path.with_suffix(".txt").write_text(caption + "\n")
        clips += 1
        counts.update("+".join(keys) or "none" for keys in held)
    total = counts.total()
    print(f"{clips} clips of {last - first} levels: {total} pictures, {total / options.fps / 60:.1f} minutes")
    print(", ".join(f"{name} {count / total:.1%}" for name, count in counts.most_common()))


if __name__ == "__main__":
    main()
