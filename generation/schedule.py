"""What changes over a clip: prompts and temperatures by the second, as the user writes them, to latent frames.

prompts = read_prompts(["a red ball", [(0, "a red ball rolls"), (4.0, "a blue ring spins")]])    # of two clips
schedule = to_latent_frames(prompts[1], fps=8, temporal=4, added=False)                        # ((0, …), (9, …))
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeVar

from ..core.errors import ReelmError, require

T = TypeVar("T")
Schedule = tuple[tuple[float, T], ...]  # (second from which on it holds, value), the first from 0 on


def read_prompts(prompt: Any) -> list[Schedule[str]]:
    """The prompts of each clip over time: of one string, a list of them, one schedule, or a list with schedules in it.

    Raises:
        ReelmError: it is none of these, or a schedule does not begin at 0 and ascend.
    """
    if isinstance(prompt, str) or is_schedule(prompt):
        prompt = [prompt]
    if not isinstance(prompt, list | tuple):
        raise ReelmError(
            f"prompt: must be a string, a list of strings, or a schedule [(0, …), (4.0, …)], got {prompt!r}"
        )
    return [((0.0, entry),) if isinstance(entry, str) else read_schedule(entry, "prompt", str) for entry in prompt]


def is_schedule(value: Any) -> bool:
    """Whether this is meant as the schedule of one clip, and not as a list of prompts."""
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], list | tuple) and (
        len(value[0]) == 2 and isinstance(value[0][0], int | float)
    )  # fmt: skip


def read_schedule(value: Any, argument: str, *kinds: type[T]) -> Schedule[T]:
    """A checked schedule [(0, value), (second, value), …] whose values are of these kinds.

    Raises:
        ReelmError: it is no such list, or does not begin at 0 and ascend.
    """
    pairs = isinstance(value, list | tuple) and bool(value) and all(
        isinstance(entry, list | tuple) and len(entry) == 2
        and isinstance(entry[0], int | float) and not isinstance(entry[0], bool) and math.isfinite(entry[0])
        and isinstance(entry[1], kinds) and not isinstance(entry[1], bool)
        for entry in value
    )  # fmt: skip
    require(pairs, argument, "must be a schedule of (second, value) pairs", value)
    times = [float(second) for second, _ in value]
    require(times[0] == 0, argument, "must begin at second 0", times[0])
    ascending = all(first < second for first, second in itertools.pairwise(times))
    require(ascending, argument, "must have seconds that ascend", times)
    return tuple((second, entry[1]) for second, entry in zip(times, value, strict=True))


def to_latent_frames(schedule: Schedule[T], *, fps: float, temporal: int, added: bool) -> tuple[tuple[int, T], ...]:
    """The same by latent frames: a change comes with the first latent frame that begins at its second or later.

    Args:
        schedule: as `read_schedule` gives it.
        fps: frames a second.
        temporal: frames of a latent frame.
        added: whether these latent frames are added to a clip: no frame 0, a latent frame of its own, is among them.

    Raises:
        ReelmError: two changes fall on one latent frame.
    """
    starts = [0]
    for second, _ in schedule[1:]:
        frame = math.ceil(second * fps - 1e-6)
        starts.append(-(-frame // temporal) if added else 1 + -(-(frame - 1) // temporal))
    distinct = len(set(starts)) == len(starts)
    require(distinct, "prompt, temperature", f"must change at most once in {temporal} frames", [s for s, _ in schedule])
    return tuple((start, value) for start, (_, value) in zip(starts, schedule, strict=True))


def latest(schedule: Sequence[tuple[Any, T]]) -> T:
    """The value that a schedule ends with."""
    return schedule[-1][1]
