"""The clean aperture of an mp4 or mov file, which FFmpeg reads and its Python binding does not hand over.

apertures = read_clean_apertures(Path("camera.mov"))   # one for each video track; apertures[0].crop(480, 720)

The boxes are those of ISO/IEC 14496-12: `clap` (12.1.4) stands in the description of a video track's samples.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .normalization import Crop

MAX_BOXES = 10_000
# The bytes before the boxes inside a description of samples (8.5.2) and inside one of video (12.1.3).
DESCRIPTIONS, VIDEO = 8, 78


class CleanAperture(NamedTuple):
    """The part of a picture that is shown: its size, and the place of its centre relative to that of the picture."""

    width: Fraction
    height: Fraction
    right: Fraction
    down: Fraction

    def crop(self, height: int, width: int) -> Crop:
        """Return the pixels to hide at each edge of a picture of this size."""
        left, top = (width - self.width) / 2 + self.right, (height - self.height) / 2 + self.down
        edges = Crop(int(left), int(top), width - int(left + self.width), height - int(top + self.height))
        return edges if left >= 0 and top >= 0 and min(edges) >= 0 else Crop()


def read_clean_apertures(path: Path) -> list[CleanAperture | None]:
    """Return the clean aperture of each video track, in order; None for a track without one."""
    with path.open("rb") as file:
        for name, start, end in boxes(file, 0, path.stat().st_size):
            if name == b"moov":
                tracks = [_inside(file, track) for track in boxes(file, start, end) if track[0] == b"trak"]
                return [aperture for is_video, aperture in tracks if is_video]
    return []


def _inside(file: BinaryIO, track: tuple[bytes, int, int]) -> tuple[bool, CleanAperture | None]:
    """Return whether a track is one of video, and its aperture."""
    is_video, aperture = False, None
    waiting = [track]
    while waiting:
        _, outer_start, outer_end = waiting.pop()
        for name, start, end in boxes(file, outer_start, outer_end):
            if name == b"hdlr":
                file.seek(start + 8)
                is_video = is_video or file.read(4) == b"vide"
            elif name in (b"mdia", b"minf", b"stbl"):
                waiting.append((name, start, end))
            elif name == b"stsd" and is_video:
                for _, entry_start, entry_end in boxes(file, start + DESCRIPTIONS, end):
                    inner = {inner: place for inner, place, _ in boxes(file, entry_start + VIDEO, entry_end)}
                    aperture = aperture or _aperture(file, inner.get(b"clap"))
    return is_video, aperture


def _aperture(file: BinaryIO, place: int | None) -> CleanAperture | None:
    if place is None:
        return None
    file.seek(place)
    data = file.read(32)
    values = [int.from_bytes(data[at : at + 4], "big", signed=True) for at in range(0, 32, 4)]
    if any(below <= 0 for below in values[1::2]):
        return None
    aperture = CleanAperture(*(Fraction(above, below) for above, below in zip(values[::2], values[1::2], strict=True)))
    return aperture if aperture.width >= 1 and aperture.height >= 1 else None


def boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, and the offsets of the first byte of the contents and of the byte after them, of each box."""
    for _ in range(MAX_BOXES):
        if start > end - 8:
            return
        file.seek(start)
        header = file.read(16)
        length, contents = int.from_bytes(header[:4], "big"), start + 8
        if length == 1:
            length, contents = int.from_bytes(header[8:], "big"), start + 16
        stop = end if length == 0 else start + length
        if stop < contents or stop > end:
            return
        yield header[4:8], contents, stop
        start = stop
