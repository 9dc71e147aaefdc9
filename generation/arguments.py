"""Check the names of a call's options, and read schedules.

check_names("generate", options)                    # "sead: is no option of generate; did you mean 'seed'?"
prompts = read_prompts(["a red ball", [(0, "a red ball rolls"), (4.0, "a blue ring spins")]])    # of two clips
schedule = to_latent_frames(prompts[1], fps=8, compression=side, continuing=False)            # ((0, …), (9, …))
"""

import difflib
import itertools
import math
from collections.abc import Mapping
from typing import TypeGuard, TypeVar

from ..core.errors import ReelmError, require
from ..core.layout import Compression
from .options import ContinueOptions, GenerateOptions, StreamOptions
from .play_options import PlayOptions

T = TypeVar("T")
Schedule = tuple[tuple[float, T], ...]  # (second from which on it holds, value); the first entry begins at 0

# The names of all options of each call, by the name of the call.
CALLS: dict[str, tuple[str, ...]] = {
    "generate": (*GenerateOptions.__annotations__, "prompt", "num_videos_per_prompt", "output_type"),
    "continue_clip": (*ContinueOptions.__annotations__, "clip", "num_videos_per_prompt", "output_type"),
    "stream": (*StreamOptions.__annotations__, "prompt"),
    "play": (*PlayOptions.__annotations__, "prompt"),
    "decode": ("session", "output_type"),
    "score": ("clip", "prompt", "fit"),
}


def check_names(call: str, options: Mapping[str, object]) -> None:
    """Refuse options that a call does not have.

    Raises:
        ReelmError: An option is unknown. The message names the calls that have the option, or else the option of this
            call with the most similar name, or else all options of this call.
    """
    for name in options:
        if name in CALLS[call]:
            continue
        others = [other for other, names in CALLS.items() if name in names]
        similar = difflib.get_close_matches(name, CALLS[call], n=1)
        if others:
            *most, last = others
            hint = f"{', '.join(most)} and {last} have it" if most else f"{last} has it"
        else:
            hint = f"did you mean {similar[0]!r}?" if similar else f"there are {', '.join(CALLS[call])}"
        raise ReelmError(f"{name}: is no option of {call}; {hint}")


def read_prompts(prompt: object) -> list[Schedule[str]]:
    """Return the schedule of each clip, from a string, a schedule, or a list of strings and schedules.

    Raises:
        ReelmError: The prompt is none of these, or a schedule does not begin at 0 and ascend.
    """
    if isinstance(prompt, str) or is_schedule(prompt):
        prompt = [prompt]
    if not isinstance(prompt, list | tuple):
        raise ReelmError(
            f"prompt: must be a string, a list of strings, or a schedule [(0, …), (4.0, …)], got {prompt!r}"
        )
    return [((0.0, entry),) if isinstance(entry, str) else read_schedule(entry, "prompt", str) for entry in prompt]


def is_schedule(value: object) -> bool:
    """Return whether a value is meant as the schedule of one clip, and not as a list of prompts."""
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], list | tuple) and (
        len(value[0]) == 2 and isinstance(value[0][0], int | float)
    )  # fmt: skip


def is_number(value: object) -> TypeGuard[float]:
    """Return whether this is a number that computes: no bool, finite, and within 64 bits."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -(2**63) < value < 2**63


def read_schedule(value: object, argument: str, *types: type[T]) -> Schedule[T]:
    """Return a checked schedule from a list [(0, value), (second, value), …] with values of these types.

    Raises:
        ReelmError: It is no such list, or does not begin at 0 and ascend.
    """
    entries = value if isinstance(value, list | tuple) else []
    pairs = bool(entries) and all(
        isinstance(entry, list | tuple) and len(entry) == 2
        and is_number(entry[0])
        and isinstance(entry[1], types) and not isinstance(entry[1], bool)
        for entry in entries
    )  # fmt: skip
    require(pairs, argument, "must be a schedule of (second, value) pairs", value)
    times = [float(second) for second, _ in entries]
    require(times[0] == 0, argument, "must begin at second 0", times[0])
    ascending = all(first < second for first, second in itertools.pairwise(times))
    require(ascending, argument, "must have seconds that ascend", times)
    return tuple((second, entry[1]) for second, entry in zip(times, entries, strict=True))


def to_latent_frames(
    schedule: Schedule[T], *, fps: float, compression: Compression, continuing: bool
) -> tuple[tuple[int, T], ...]:
    """Convert a schedule to latent frames: a change holds from the first one that begins at its second or later.

    Args:
        schedule: The schedule, as `read_schedule` returns it.
        fps: The frames per second.
        compression: The frames in a latent frame.
        continuing: Whether the latent frames are added to a clip, so that latent frame 0 is not among them.

    Raises:
        ReelmError: Two changes fall on one latent frame.
    """
    starts = [0]
    for second, _ in schedule[1:]:
        frame = math.ceil(second * fps - 1e-6)
        starts.append(-(-frame // compression.t) if continuing else compression.latent_frames(frame))
    distinct = len(set(starts)) == len(starts)
    rule = f"must change at most once in {compression.t} frames"
    require(distinct, "prompt, temperature", rule, [second for second, _ in schedule])
    return tuple((start, value) for start, (_, value) in zip(starts, schedule, strict=True))
