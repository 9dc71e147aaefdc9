"""Bring what was held and turned to another frame rate, as the pictures of a clip are.

track = resampled_controls(track, spans_T2, fps=8, count=24)

No tap is lost, however short: a key is held during a new picture if it was held during any part of it. Turns add up:
that of an old picture goes to the new ones in proportion to the time that it shares with each.
"""

import math

import numpy as np

from ..core.controls import ControlTrack
from ..media.timeline import ROUNDED


def resampled_controls(track: ControlTrack, spans_T2: np.ndarray, *, fps: float, count: int) -> ControlTrack:
    """Return what was held and turned during each picture of a clip that was brought to another rate.

    Args:
        track: What was held and turned during each of the T pictures of the clip.
        spans_T2: The seconds from which and until which each of them is shown, from 0 on.
        fps: The frames per second of the result; picture n is shown from n / fps seconds on.
        count: The pictures of the result; the last one has all that comes after it, too.

    Returns:
        The track of the `count` pictures. The total turn of each axis is that of `track`.
    """
    held: list[set[str]] = [set() for _ in range(count)]
    axes = {name: [0.0] * count for name in track.axes}
    for old, (start, stop) in enumerate((spans_T2 * fps).tolist()):
        for new, share in _shares(start, stop, count, ROUNDED * fps).items():
            held[new] |= track.keys[old]
            for name, turns in axes.items():
                turns[new] += share * track.axes[name][old]
    return ControlTrack(tuple(map(frozenset, held)), {name: tuple(turns) for name, turns in axes.items()})


def _shares(start: float, stop: float, count: int, least: float) -> dict[int, float]:
    """Return which part of an old picture, shown from `start` to `stop` new ones, falls on each new picture.

    Parts of at most `least` new pictures count as none, beside longer ones: files round times, and a key would seem to
    be held for a millisecond of the picture before.
    """
    first, last = (min(number, count - 1) for number in (math.floor(start), math.ceil(stop) - 1))
    ends = [start, *range(first + 1, last + 1), stop]
    parts = {first + index: ends[index + 1] - ends[index] for index in range(len(ends) - 1)}
    longest = max(parts.values())
    kept = {new: part for new, part in parts.items() if part > least or part == longest}
    total = sum(kept.values())
    return {new: part / total if total > 0 else 1.0 for new, part in kept.items()}
