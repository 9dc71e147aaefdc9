"""Whether a video file was cut: its container says where it ends, and the file does not end there.

is_cut(Path("killed.mp4"), "mov,mp4,m4a,3gp,3g2,mj2")
"""

from pathlib import Path
from typing import BinaryIO

from .matroska import SEGMENT, elements

MAX_BOXES = 1_000_000
# The length of a packet and the place of its first byte: plain, with time codes (Blu-ray), with error correction.
TS_PACKETS, TS_FIRST_BYTE = ((188, 0), (192, 4), (204, 0)), 0x47
OGG_PAGE, OGG_MAX_PAGE, OGG_LAST = b"OggS", 65307, 4
# The identifier of an ASF file's properties (Advanced Systems Format 3.2), which stand in its first bytes.
ASF_PROPERTIES, ASF_HEAD = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"), 65536
FLV_TAG_HEADER, FLV_TAGS = 11, (8, 9, 18)


def is_cut(path: Path, container: str) -> bool:
    """Return whether a file ends elsewhere than its container says.

    Args:
        path: The file.
        container: FFmpeg's name of the format. Formats that do not say where they end are never cut.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        for name, ends_elsewhere in CHECKS.items():
            if name in container.split(","):
                return ends_elsewhere(file, size)
    return False


def _matroska(file: BinaryIO, size: int) -> bool:
    # The segment of a live stream has no size, and ends with the file.
    return not any(name == SEGMENT and end == size for name, _, end in elements(file, 0, size))


def _mp4(file: BinaryIO, size: int) -> bool:
    """Walk over the boxes of the file (ISO/IEC 14496-12, 4.2), which must end with it."""
    start = 0
    for _ in range(MAX_BOXES):
        if start == size:
            return False
        file.seek(start)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if len(header) == 16 and length == 1:
            length = int.from_bytes(header[8:], "big")
        if length == 0 and len(header) >= 8:  # to the end of the file
            return False
        if length < 8 or not header[4:8].isascii():
            return True
        start += length
        if start > size:
            return True
    return True


def _avi(file: BinaryIO, size: int) -> bool:
    """Walk over the RIFF chunks of the file, of which OpenDML has several; each is padded to an even size."""
    start = 0
    while start < size - 8:
        file.seek(start)
        header = file.read(8)
        if header[:4] != b"RIFF":
            return True
        start += 8 + int.from_bytes(header[4:], "little")
        start += start % 2
    return start - start % 2 > size


def _mpegts(file: BinaryIO, size: int) -> bool:
    head = file.read(4 * max(length for length, _ in TS_PACKETS))
    for length, place in TS_PACKETS:
        if set(head[place::length]) == {TS_FIRST_BYTE}:
            return size % length != 0
    return False


def _ogg(file: BinaryIO, size: int) -> bool:
    """Look at the flags of the last page (RFC 3533, 6), which must be the last one of its stream."""
    file.seek(max(0, size - OGG_MAX_PAGE))
    tail = file.read()
    page = tail[max(0, tail.rfind(OGG_PAGE)) :]
    if len(page) < 27 or not page[5] & OGG_LAST:
        return True
    return len(page) != 27 + page[26] + sum(page[27 : 27 + page[26]])


def _flv(file: BinaryIO, size: int) -> bool:
    """Look at the size of the last tag, which follows each tag."""
    file.seek(max(0, size - 4))
    length = int.from_bytes(file.read(4), "big")
    if not FLV_TAG_HEADER <= length <= size - 4:
        return True
    file.seek(size - 4 - length)
    header = file.read(4)
    return header[0] & 31 not in FLV_TAGS or int.from_bytes(header[1:], "big") + FLV_TAG_HEADER != length


def _asf(file: BinaryIO, size: int) -> bool:
    """Look at the size of the file in its File Properties, which one that was not finished or live does not have."""
    head = file.read(ASF_HEAD)
    place = head.find(ASF_PROPERTIES)
    if place < 0:
        return False
    declared = int.from_bytes(head[place + 40 : place + 48], "little")
    return declared > size


CHECKS = {
    "matroska": _matroska, "mp4": _mp4, "avi": _avi, "mpegts": _mpegts, "ogg": _ogg, "flv": _flv, "asf": _asf,
}  # fmt: skip
