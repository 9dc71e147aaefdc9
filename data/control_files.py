"""Read what was held and turned while a clip was recorded, from the file beside it.

recording = read_controls(source)                  # None where no such file lies beside the clip
track = recording.checked(spans_T2, fps=clip.fps)  # ControlTrack, one entry for each picture of the clip

The file has the clip's name with the suffix .jsonl or .csv, and a line for each picture of the clip:

    {"keys": ["w", "j"], "turn": 1.5, "time": 0.125}        keys,turn,time
                                                            w+j,1.5,0.125

"keys" are the keys that were held while the picture was shown, "time" is when it was shown, in seconds, and every other
number is how far the axis of that name turned meanwhile. All are optional; an axis that a line of JSON leaves out
rests. In a CSV, which has a header, keys are joined by "+" or blanks, and an empty cell or "none" is no key.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ..core.controls import KEYS, MOST_AXES, NONE, ControlTrack, check_name
from ..core.errors import ClipError, ReelmError
from ..media.timeline import ROUNDED
from .sources import Source, read_text

TIME = "time"
MAX_CONTROL_BYTES = 2**26
# What a line says by name, and where it stands, for error messages.
Line: TypeAlias = tuple[str, Mapping[str, object]]


@dataclass(frozen=True)
class Recording:
    """What a file says of the pictures of a clip.

    Attributes:
        name: The name of the file.
        track: What was held and turned while each picture was shown.
        times: The seconds at which each picture is said to be shown; None where a line has no time.
    """

    name: str
    track: ControlTrack
    times: tuple[float | None, ...]

    def checked(self, spans_T2: np.ndarray, *, fps: float) -> ControlTrack:
        """Return the track, after checking that it is that of a clip.

        Args:
            spans_T2: The seconds from which and until which each picture of the clip is shown.
            fps: The frames per second of the clip.

        Raises:
            ClipError: The file has not one line for each picture, or times that are not those of the pictures.
        """
        count = len(spans_T2)
        if len(self.track) != count:
            rule = f"must have a line for each of the {count} pictures of the clip"
            raise ClipError(f"controls: {rule}, got {len(self.track)} in {self.name!r}")
        for number, (told, (start, stop)) in enumerate(zip(self.times, spans_T2.tolist(), strict=True)):
            # Of a variable rate, a picture may be shown for a shorter time than those around it.
            if told is not None and abs(told - start) > 0.5 * max(stop - start, 1 / fps) + ROUNDED:
                rule = f"must have times within half a picture of the clip's own, {start:.6g} for picture {number}"
                raise ClipError(f"controls: {rule}, got {told:.6g} in {self.name!r}")
        return self.track


def read_controls(source: Source) -> Recording | None:
    """Return what the file beside a clip says, or None if there is none.

    Raises:
        ClipError: There are two files, or the file is unreadable, not UTF-8, too large, or has a line that cannot be
            used; the message names the line.
    """
    paths = source.controls_paths
    if not paths:
        return None
    path, *others = paths
    if others:
        raise ClipError(f"controls: must be one file beside a clip, got {', '.join(repr(each.name) for each in paths)}")
    text = read_text(path, "controls", MAX_CONTROL_BYTES)
    return _recording(path.name, (_json_lines if path.suffix == ".jsonl" else _csv_lines)(text, path.name))


def _json_lines(text: str, name: str) -> Iterator[Line]:
    text = text.rstrip()
    for number, line in enumerate(text.split("\n") if text else (), start=1):
        where = f"line {number} of {name!r}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ClipError(f"controls: must be JSON, got something else in {where}") from error
        if not isinstance(values, dict):
            raise ClipError(f"controls: must be a JSON object on each line, got {_shown(values)} in {where}")
        yield where, values


def _csv_lines(text: str, name: str) -> Iterator[Line]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [column.strip() for column in next(rows, [])]
        if len(set(header)) < len(header):
            raise ClipError(f"controls: must have columns that differ, got {', '.join(header)} in {name!r}")
        for row in rows:
            if not row:  # an empty line, which in a single column is an empty cell
                if len(header) > 1:
                    continue
                row = [""]
            where = f"line {rows.line_num} of {name!r}"
            if len(row) != len(header):
                rule = f"must have the {len(header)} columns of the header"
                raise ClipError(f"controls: {rule}, got {len(row)} in {where}")
            cells = zip(header, row, strict=True)
            yield where, {column: (_names if column == KEYS else _number)(cell) for column, cell in cells}
    except csv.Error as error:
        raise ClipError(f"controls: must be CSV, got something else in line {rows.line_num} of {name!r}") from error


def _names(cell: str) -> list[str]:
    names = cell.replace("+", " ").split()
    return [] if names == [NONE] else names


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell.strip()


def _recording(name: str, lines: Iterable[Line]) -> Recording:
    """Return what all lines say together."""
    keys: list[frozenset[str]] = []
    axes: dict[str, list[float]] = {}
    times: list[float | None] = []
    latest = -math.inf
    for number, (where, values) in enumerate(lines):
        keys.append(_key_names(values.get(KEYS, []), where))
        numbers = {column: _finite(column, value, where) for column, value in values.items() if column != KEYS}
        time = numbers.pop(TIME, None)
        times.append(time)
        if time is not None and time <= latest:
            raise ClipError(f"controls: must have times that ascend, got {time:.6g} after {latest:.6g} in {where}")
        latest = latest if time is None else time
        for axis in numbers:
            _check_name(axis, where)
            axes.setdefault(axis, [0.0] * number)
        if len(axes) > MOST_AXES:
            raise ClipError(f"controls: must have at most {MOST_AXES} axes, got {len(axes)} in {where}")
        for axis, turns in axes.items():
            turns.append(numbers.get(axis, 0.0))
    both = sorted(frozenset().union(*keys) & set(axes))
    if both:
        raise ClipError(f"controls: must have keys and axes of different names, got {both[0]!r} as both in {name!r}")
    track = ControlTrack(tuple(keys), {axis: tuple(turns) for axis, turns in axes.items()})
    return Recording(name, track, tuple(times))


def _key_names(value: object, where: str) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(key, str) for key in value):
        raise ClipError(f"controls: must have a list of names for {KEYS!r}, got {_shown(value)} in {where}")
    for key in value:
        _check_name(key, where)
    return frozenset(value)


def _finite(column: str, value: object, where: str) -> float:
    # Turns are added up, and their sum must be finite too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e30:
        rule = f"must have a number from -1e30 to 1e30 for {column!r}"
        raise ClipError(f"controls: {rule}, got {_shown(value)} in {where}")
    return float(value)


def _check_name(name: str, where: str) -> None:
    try:
        check_name(name, "controls")
    except ReelmError as error:
        raise ClipError(f"{error} in {where}") from error


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."
