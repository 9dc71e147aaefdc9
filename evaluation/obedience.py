"""Does the picture do what the key does? Holds of single keys, the way that the scene takes in each, and effects.

    holds = find_holds(track, fps=15)                   # [Hold("right", 0, 15), Hold("", 15, 30), ...]
    measured = measure_holds(frames_THW3, holds)        # a `MeasuredHold` for each
    effects = learn_effects(measured_in_the_game)       # {"right": Effect("left", 11.0), "up": Effect("down", 6.0)}
    effects["right"].shown_in(measured[0])

What a key does is read off the game: the direction in which the scene moves further while it is held than in all other
holds. A hold shows this effect if the scene moves at least half as far as in the median of the game's holds of this
key, without those in which it does not move, and further than in the opposite direction.
"""

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.controls import ControlTrack
from .motion import find_cuts, measure_motion

LENGTH, SHORTEST = 1.0, 0.9  # seconds: the part of a hold that is judged, and holds that are too short for it
STILL = 1.0  # pixels: a scene that moves less far stands still
LEAST = 2.0  # pixels: no key does less than this
FEWEST = 5  # holds, from which an effect is learnt
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
        stop: The picture after the last one during which it is judged to be held: what it does shows up to here.
    """

    key: str
    start: int
    stop: int


@dataclass(frozen=True)
class MeasuredHold:
    """A hold, and the way that the scene took in it.

    Attributes:
        hold: The hold.
        path: Where the scene was at each picture, from where it was at first: to the right, down and nearer, in pixels.
        cut: Whether the scene changed to another one, so that nothing can be said.
        back: The largest PSNR, in dB, of its pictures with the one at the start of the hold just before, after a walk
            there and back; None where there is no such hold.
    """

    hold: Hold
    path: tuple[tuple[float, ...], ...]
    cut: bool = False
    back: float | None = None

    def farthest(self, direction: str) -> float:
        """Return how far the scene came in a direction."""
        axis, sign = DIRECTIONS[direction]
        return max(sign * place[axis] for place in self.path)

    def delay(self, direction: str) -> int | None:
        """Return the number of the first picture that had moved in a direction; None where none did."""
        axis, sign = DIRECTIONS[direction]
        return next((picture for picture, place in enumerate(self.path) if sign * place[axis] >= STILL), None)

    @property
    def rests(self) -> bool:
        """Whether the scene stands still in the second half."""
        first, *later = self.path[len(self.path) // 2 :]
        return all(abs(there - here) <= STILL for place in later for there, here in zip(place, first, strict=True))


@dataclass(frozen=True)
class Effect:
    """What a key does.

    Attributes:
        direction: The direction in which the scene moves.
        least: How far it moves at least, in pixels.
    """

    direction: str
    least: float

    def shown_in(self, measured: MeasuredHold) -> bool:
        """Return whether the scene does this in a hold."""
        far = measured.farthest(self.direction)
        return far >= self.least and far > measured.farthest(OPPOSITE[self.direction])


def find_holds(track: ControlTrack, *, fps: float) -> list[Hold]:
    """Return the times in which one key alone is held, or none, and all axes rest, for at least `SHORTEST` seconds."""
    turning = [any(turns[picture] for turns in track.axes.values()) for picture in range(len(track))]
    holds, first = [], 0
    for (held, turns), group in itertools.groupby(zip(track.keys, turning, strict=True)):
        count = sum(1 for _ in group)
        if len(held) <= 1 and not turns and count >= SHORTEST * fps:
            holds.append(Hold("".join(held), first, first + min(count, round(LENGTH * fps))))
        first += count
    return holds


def measure_holds(frames_THW3: np.ndarray, holds: Sequence[Hold], *, cuts: bool = False) -> list[MeasuredHold]:
    """Measure the way that the scene of a clip (T, H, W, 3) uint8 takes in each of these holds.

    Args:
        frames_THW3: The clip.
        holds: The holds.
        cuts: Whether the clip may go on with another scene, as games do when a level begins anew.
    """
    new = np.flatnonzero(find_cuts(measure_motion(frames_THW3)[1])) if cuts else np.zeros(0)
    before = {hold.stop: hold for hold in holds}
    measured = []
    for hold in holds:
        moved_P3, _ = measure_motion(frames_THW3[hold.start : hold.stop + 1])
        path_T3 = np.cumsum(np.concatenate([np.zeros((1, 3)), moved_P3]), 0)
        cut, earlier = bool(((new >= hold.start) & (new < hold.stop)).any()), before.get(hold.start)
        back = None if earlier is None else _likeness(frames_THW3[hold.start + 1 : hold.stop + 1],
                                                      frames_THW3[earlier.start])  # fmt: skip
        measured.append(MeasuredHold(hold, tuple(map(tuple, path_T3.tolist())), cut, back))
    return measured


def _likeness(pictures_THW3: np.ndarray, picture_HW3: np.ndarray) -> float:
    """Return the largest PSNR, in dB, of pictures with another one."""
    errors_T = np.square(pictures_THW3.astype(np.float64) - picture_HW3).mean((1, 2, 3))
    return float(10 * np.log10(255**2 / max(errors_T.min(), 1e-6)))


def learn_effects(measured: Iterable[MeasuredHold]) -> dict[str, Effect]:
    """Return what each key does in a game; a key that moves the scene no further than the others is left out."""
    whole = [each for each in measured if not each.cut]
    effects = {}
    for key in sorted({each.hold.key for each in whole} - {""}):
        mine = [each for each in whole if each.hold.key == key]
        others = [each for each in whole if each.hold.key != key]
        if len(mine) < FEWEST or not others:
            continue
        far = {name: [each.farthest(name) for each in mine] for name in DIRECTIONS}
        gains = {
            name: statistics.mean(far[name]) - statistics.mean(each.farthest(name) for each in others)
            for name in DIRECTIONS
        }
        name = max(gains, key=lambda each: gains[each])
        # Twice the standard error, so that a difference by chance is none.
        if gains[name] >= max(LEAST, 2 * statistics.stdev(far[name]) / len(mine) ** 0.5):
            moved = [each for each in far[name] if each >= LEAST]
            effects[key] = Effect(name, max(LEAST, statistics.median(moved) / 2))
    return effects
