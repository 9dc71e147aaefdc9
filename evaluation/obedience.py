"""Does the picture do what the key does? Holds of single keys, how far the scene moves in each, and the share that do.

    holds = find_holds(track, fps=15)                   # [Hold("right", 0, 15), Hold("", 15, 30), ...]
    judged = judge_holds(frames_THW3, holds)            # ((Hold("right", 0, 15), Reach(...)), ...)
    effects = learn_effects(judged_of_the_game)         # {"right": Effect("left", 11.0), "up": Effect("down", 6.0)}
    does("right", reach, effects)

What a key does is read off the game: the direction in which the scene moves, in the holds of this key, further than in
all others. A hold of a model does the same if the scene moves as far in that direction as it does in half of the holds
of the game, less a half; and further than in the opposite one.
"""

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.controls import ControlTrack
from .motion import find_cuts, measure_motion

SHORTEST = 0.9  # seconds: holds that are shorter are not judged
STRIDE = 2  # pictures between two that are compared: slow motions are whole pixels then
STILL = 1.0  # pixels: a scene that moves less far stands still
LEAST = 2.0  # pixels: no key does less than this
# The axis and the sign of a scene's motion.
DIRECTIONS = {"right": (0, 1), "left": (0, -1), "down": (1, 1), "up": (1, -1), "nearer": (2, 1), "farther": (2, -1)}
OPPOSITE = {
    **{"right": "left", "left": "right", "down": "up", "up": "down"}, **{"nearer": "farther", "farther": "nearer"}
}  # fmt: skip


@dataclass(frozen=True)
class Hold:
    """A time in which one key alone is held, or none.

    Attributes:
        key: The name of the key; "" for none.
        start: The picture during which it is held first.
        stop: The picture after the last one during which it is held: what it does shows up to here.
    """

    key: str
    start: int
    stop: int


@dataclass(frozen=True)
class Reach:
    """How far the scene moved in a hold, in pixels.

    Attributes:
        right, left, down, up, nearer, farther: The farthest that it came in each direction from where it was at first.
        rest: The farthest that it came in any direction in the second half, from where it was then.
        cut: Whether the scene changed to another one, so that nothing can be said.
        back: The largest PSNR, in dB, of its pictures with the one at the start of the hold just before: that of a walk
            there and back. None where there is no such hold.
    """

    right: float
    left: float
    down: float
    up: float
    nearer: float
    farther: float
    rest: float
    cut: bool
    back: float | None = None


@dataclass(frozen=True)
class Effect:
    """What a key does.

    Attributes:
        direction: The direction in which the scene moves.
        least: How far it moves at least, in pixels.
    """

    direction: str
    least: float


def find_holds(track: ControlTrack, *, fps: float, shortest: float = SHORTEST) -> list[Hold]:
    """Return the times in which one key alone is held, or none, for at least so many seconds."""
    holds, first = [], 0
    for held, group in itertools.groupby(track.keys):
        count = sum(1 for _ in group)
        if len(held) <= 1 and count >= shortest * fps:
            holds.append(Hold("".join(held), first, first + count))
        first += count
    return holds


def judge_holds(
    frames_THW3: np.ndarray, holds: Sequence[Hold], *, cuts: bool = False
) -> tuple[tuple[Hold, Reach], ...]:
    """Measure how far the scene of a clip (T, H, W, 3) uint8 moves in each of these holds.

    Args:
        frames_THW3: The clip.
        holds: The holds.
        cuts: Whether the clip may go on with another scene, as games do when a level begins anew.
    """
    earlier, pictures = {hold.stop: hold for hold in holds}, np.zeros(0, np.int64)
    if cuts:
        pictures = STRIDE * np.flatnonzero(find_cuts(measure_motion(frames_THW3[::STRIDE])[1]))
    return tuple(
        (hold, _reach(frames_THW3, hold, earlier.get(hold.start), cut=bool(
            ((pictures > hold.start - STRIDE) & (pictures < hold.stop)).any()
        ))) for hold in holds
    )  # fmt: skip


def _reach(frames_THW3: np.ndarray, hold: Hold, before: Hold | None, *, cut: bool) -> Reach:
    moved_P3, _ = measure_motion(frames_THW3[hold.start : hold.stop + 1 : STRIDE])
    path_P3 = np.cumsum(np.concatenate([np.zeros((1, 3)), moved_P3]), 0)
    far = {name: float((sign * path_P3[:, axis]).max()) for name, (axis, sign) in DIRECTIONS.items()}
    later_P3 = path_P3[len(path_P3) // 2 :]
    back = None
    if before is not None:
        pictures, start = frames_THW3[hold.start + 1 : hold.stop + 1], frames_THW3[before.start]
        errors = np.square(pictures.astype(np.float64) - start).mean((1, 2, 3))
        back = float(10 * np.log10(255**2 / max(errors.min(), 1e-6)))
    return Reach(**far, rest=float(np.abs(later_P3 - later_P3[0]).max()), cut=cut, back=back)


def learn_effects(judged: Iterable[tuple[Hold, Reach]]) -> dict[str, Effect]:
    """Return what each key does in a game; a key that moves the scene no further than the others is left out."""
    whole = [(hold, reach) for hold, reach in judged if not reach.cut]
    effects = {}
    for key in sorted({hold.key for hold, _ in whole} - {""}):
        gains = {}
        for name in DIRECTIONS:
            mine = [getattr(reach, name) for hold, reach in whole if hold.key == key]
            others = [getattr(reach, name) for hold, reach in whole if hold.key != key]
            if others:
                gains[name] = statistics.mean(mine) - statistics.mean(others)
        name = max(gains, key=lambda each: gains[each], default="")
        if name and gains[name] >= LEAST:
            reaches = [getattr(reach, name) for hold, reach in whole if hold.key == key]
            effects[key] = Effect(name, max(LEAST, statistics.median(reaches) / 2))
    return effects


def does(key: str, reach: Reach, effects: Mapping[str, Effect]) -> bool:
    """Return whether the scene does in a hold what the key does; with no key, whether it comes to rest."""
    if not key:
        return reach.rest <= STILL
    effect = effects[key]
    far = getattr(reach, effect.direction)
    return far >= effect.least and far > getattr(reach, OPPOSITE[effect.direction])
