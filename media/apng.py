"""Frames of animated PNGs (APNG), composed as the PNG specification (third edition) says.

    for image, seconds in read_apng(data):     # RGBA images of the size of the canvas
        ...

Pillow also composes APNGs, but squares the alpha where a frame is blended over another, and shows the default image,
which only programs that do not know APNG should show.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .colours import split_alpha

if TYPE_CHECKING:
    from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DISPOSE_BACKGROUND, DISPOSE_PREVIOUS = 1, 2
BLEND_OVER = 1


class _FrameControl(NamedTuple):
    """The fields of an fcTL chunk."""

    sequence: int
    width: int
    height: int
    left: int
    top: int
    delay_numerator: int
    delay_denominator: int
    disposal: int
    blend: int

    @property
    def seconds(self) -> float:
        return self.delay_numerator / (self.delay_denominator or 100)


def frames_in_apng(data: bytes) -> int:
    """Return the number of frames that an APNG declares, or 0 for any other PNG."""
    for kind, chunk in _chunks(data):
        if kind == b"acTL" and len(chunk) == 8:
            return int(struct.unpack(">I", chunk[:4])[0])
        if kind == b"IDAT":
            return 0
    return 0


def read_apng(data: bytes) -> Iterator[tuple["Image.Image", float]]:
    """Yield each frame of the animation as an RGBA image of the whole canvas, with its duration in seconds.

    Args:
        data: The bytes of the file.

    Raises:
        ValueError: A frame lies outside the canvas, or its fields are cut.
        Exception: Any exception that Pillow raises on a broken frame.
    """
    from PIL import Image

    size, canvas = None, None
    for control, png in _frames(data):
        if canvas is None or size is None:
            size = struct.unpack(">II", data[16:24])
            canvas = Image.new("RGBA", size)
        box = (control.left, control.top, control.left + control.width, control.top + control.height)
        if not (control.width and control.height and box[2] <= size[0] and box[3] <= size[1]):
            raise ValueError(f"frame {box} lies outside the canvas {size}")
        with Image.open(io.BytesIO(png), formats=("PNG",)) as part:
            colour, alpha = split_alpha(part)
            frame = colour.convert("RGBA")
            if alpha is not None:
                frame.putalpha(alpha)
        before = canvas.crop(box)
        canvas.paste(Image.alpha_composite(before, frame) if control.blend == BLEND_OVER else frame, box)
        yield canvas.copy(), control.seconds
        if control.disposal == DISPOSE_BACKGROUND:
            canvas.paste((0, 0, 0, 0), box)
        elif control.disposal == DISPOSE_PREVIOUS:
            canvas.paste(before, box)


def _frames(data: bytes) -> Iterator[tuple[_FrameControl, bytes]]:
    """Yield the control of each frame and a PNG of that frame alone."""
    header: list[tuple[bytes, bytes]] = []
    control: _FrameControl | None = None
    pixels: list[bytes] = []
    for kind, chunk in _chunks(data):
        if kind in (b"fcTL", b"IEND") and control is not None and pixels:
            yield control, _png(header, control, pixels)
            control, pixels = None, []
        if kind == b"fcTL":
            control = _FrameControl(*struct.unpack(">IIIIIHHBB", chunk))
        elif kind == b"IDAT":
            # An IDAT without an fcTL before it is the default image, which is no frame.
            pixels += [chunk] if control is not None else []
        elif kind == b"fdAT":
            pixels.append(chunk[4:])
        elif kind in (b"IHDR", b"PLTE", b"tRNS"):
            header.append((kind, chunk))


def _png(header: list[tuple[bytes, bytes]], control: _FrameControl, pixels: list[bytes]) -> bytes:
    chunks = []
    for kind, chunk in header:
        sized = struct.pack(">II", control.width, control.height) + chunk[8:]
        chunks.append((kind, sized if kind == b"IHDR" else chunk))
    chunks += [(b"IDAT", b"".join(pixels)), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(chunk)) + kind + chunk + struct.pack(">I", zlib.crc32(kind + chunk))
        for kind, chunk in chunks
    )
    return SIGNATURE + b"".join(packed)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the data of each whole chunk whose checksum is right, up to the first other one."""
    position = len(SIGNATURE)
    while position + 12 <= len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        end = position + 8 + length
        kind, chunk = data[position + 4 : position + 8], data[position + 8 : end]
        if len(chunk) < length or data[end : end + 4] != struct.pack(">I", zlib.crc32(kind + chunk)):
            return
        yield kind, chunk
        position = end + 4
