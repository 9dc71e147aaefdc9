"""The crop of a Matroska file, which FFmpeg reads and its Python binding does not hand over.

The element ids and the coding of sizes are those of RFC 8794 (EBML) and RFC 9559 (Matroska).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .normalization import Crop

EBML, SEGMENT, CLUSTER, TRACKS, TRACK, TRACK_TYPE, VIDEO = (
    0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B, 0xAE, 0x83, 0xE0,
)  # fmt: skip
CROPS = {0x54CC: "left", 0x54BB: "top", 0x54DD: "right", 0x54AA: "bottom"}
VIDEO_TRACK = 1
MAX_ELEMENTS = 10_000


def read_crops(path: Path) -> list[Crop]:
    """Return the crop of each video track, in order; those that could be read where the file is damaged."""
    crops: list[Crop] = []
    with path.open("rb") as file:
        size = path.stat().st_size
        for name, start, end in elements(file, 0, size):
            if name != SEGMENT:
                continue
            for child, child_start, child_end in elements(file, start, min(end, size)):
                if child == CLUSTER:
                    return crops
                if child == TRACKS:
                    for track, track_start, track_end in elements(file, child_start, child_end):
                        crops += _crop(file, track_start, track_end) if track == TRACK else []
    return crops


def _crop(file: BinaryIO, start: int, end: int) -> list[Crop]:
    """Return the crop of a track in a list, which is empty for a track of another type."""
    edges, is_video = dict.fromkeys(Crop._fields, 0), False
    for name, value_start, value_end in elements(file, start, end):
        if name == TRACK_TYPE:
            is_video = _unsigned(file, value_start, value_end) == VIDEO_TRACK
        elif name == VIDEO:
            for item, item_start, item_end in elements(file, value_start, value_end):
                if item in CROPS:
                    edges[CROPS[item]] = _unsigned(file, item_start, item_end)
    return [Crop(**edges)] if is_video else []


def elements(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the id, and the offsets of the first byte of the contents and of the byte after them, of each element."""
    for _ in range(MAX_ELEMENTS):
        if start >= end:
            return
        file.seek(start)
        name, length = _number(file, keep_marker=True), _number(file, keep_marker=False)
        if name is None or length is None:
            return
        contents = file.tell()
        # All ones: the size is not known, and the element goes on to the end.
        stop = end if length < 0 else contents + length
        yield name, contents, stop
        start = stop


def _number(file: BinaryIO, *, keep_marker: bool) -> int | None:
    """Read a number of variable size; -1 for one whose bits are all ones, None where there is none."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    length = 9 - first[0].bit_length()
    data = first + file.read(length - 1)
    if len(data) < length:
        return None
    value = int.from_bytes(data, "big")
    if keep_marker:
        return value
    value &= (1 << 7 * length) - 1
    return -1 if value == (1 << 7 * length) - 1 else value


def _unsigned(file: BinaryIO, start: int, end: int) -> int:
    file.seek(start)
    return int.from_bytes(file.read(min(max(end - start, 0), 8)), "big")
