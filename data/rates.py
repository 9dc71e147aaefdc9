"""One frame rate for a folder of clips: the median of the rates of those that move.

fps = choose_fps([Path("a.mp4"), Path("b.gif"), Path("still.png")], workers=4)

A model has one rate. With the median, half of the clips lose frames and the other half have some twice, and one clip of
an unusual rate changes nothing.
"""

import contextlib
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import ClipError
from ..core.pool import Died, run_all
from ..core.progress import note, progress
from ..media.streaming import stream_clip
from .recode import LIMITS, MIN_FPS


def own_rate(path: Path) -> float | None:
    """Return the frames per second of a clip; None for a still, and for a clip that cannot be read or used."""
    try:
        clip = stream_clip(path, limits=LIMITS)
        moves = len(list(itertools.islice(clip.frames, 2))) == 2
    except ClipError:
        return None
    return clip.fps if moves and clip.fps >= MIN_FPS else None


def choose_fps(paths: Sequence[Path], workers: int) -> float | None:
    """Return the rate for all of these clips, and note it where their own rates differ; None where no clip moves.

    Of an even number of clips it is the lower of the two in the middle, so that it is always the rate of a clip.

    Args:
        paths: The files of the clips.
        workers: The number of processes that read; with 0 this process does.
    """
    with contextlib.closing(run_all(own_rate, paths, workers)) as results:
        found = [*progress(results, "reading the rates of the clips", unit="clip", total=len(paths))]
    rates = [rate for rate in found if rate is not None and not isinstance(rate, Died)]
    if not rates:
        return None
    fps = statistics.median_low(rates)
    if min(rates) < max(rates):
        note(
            f"the clips have {min(rates):g} to {max(rates):g} frames a second; all are used at {fps:g}, the median "
            "(--fps chooses another rate)"
        )
    return fps
