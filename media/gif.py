"""Frames of gifs, composed as the GIF89a specification says; Pillow decodes the pixels of each.

    gif = GifFile(data)
    for image, seconds in gif.read(max_pixels):      # RGB images of the size of the screen, transparent pixels black
        ...

Pillow also composes gifs, but gives a frame without a disposal that of an earlier one, and fills what the first frame
leaves open with the first colour of the palette.
"""

import io
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

SCREEN_BYTES = 13
EXTENSION, IMAGE, TRAILER, GRAPHIC_CONTROL = 0x21, 0x2C, 0x3B, 0xF9
HAS_PALETTE, INTERLACED = 0x80, 0x40
DISPOSE_BACKGROUND, DISPOSE_PREVIOUS = 2, 3


class _Frame(NamedTuple):
    """One frame: its place on the screen, its palette (K, 3), how it is shown, and its compressed pixels."""

    left: int
    top: int
    width: int
    height: int
    interlaced: int
    palette: np.ndarray
    transparent: int | None
    disposal: int
    centiseconds: int
    pixels: bytes


class GifFile:
    """The frames of a gif.

    Args:
        data: The bytes of the file.

    Attributes:
        count: The number of frames, with a last one that may be cut.
        is_cut: Whether the byte is missing that ends a gif.
    """

    def __init__(self, data: bytes) -> None:
        self._width, self._height, flags, self._background = struct.unpack("<HHBB", data[6:12])
        # Without a palette, an index is a level of grey.
        self._palette = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
        self._has_palette, position = bool(flags & HAS_PALETTE), SCREEN_BYTES
        if self._has_palette:
            self._palette, position = _palette(data, position, flags)
        self._frames, self.is_cut = self._parse(data, position)
        self.count = len(self._frames)
        if self._frames and not (self._width and self._height):  # the first frame then is the screen
            first = self._frames[0]
            self._width, self._height = first.left + first.width, first.top + first.height

    def read(self, max_pixels: int) -> Iterator[tuple["Image.Image", float]]:
        """Yield each frame as an RGB image of the whole screen, with its duration in seconds.

        Args:
            max_pixels: The largest height times width of a frame, which may be larger than the screen.

        Raises:
            ValueError: A frame is larger.
            Exception: Any exception that Pillow raises on a broken frame.
        """
        from PIL import Image

        first = self._frames[0] if self._frames else None
        canvas_HW3 = np.empty((self._height, self._width, 3), np.uint8)
        canvas_HW3[:] = self._empty(first)
        for frame in self._frames:
            if frame.width * frame.height > max_pixels:
                raise ValueError(f"a frame has {frame.width}x{frame.height} pixels")
            area = (
                slice(frame.top, min(frame.top + frame.height, self._height)),
                slice(frame.left, min(frame.left + frame.width, self._width)),
            )
            shown_HW3 = canvas_HW3[area]
            before_HW3 = shown_HW3.copy()
            indices = _decode(frame)[: shown_HW3.shape[0], : shown_HW3.shape[1]]
            colours_HW3 = frame.palette[np.minimum(indices, len(frame.palette) - 1)]
            opaque = True if frame.transparent is None else (indices != frame.transparent)[..., None]
            np.copyto(shown_HW3, colours_HW3, where=opaque)
            yield Image.fromarray(canvas_HW3.copy()), frame.centiseconds / 100
            if frame.disposal == DISPOSE_BACKGROUND:
                shown_HW3[:] = self._empty(frame)
            elif frame.disposal == DISPOSE_PREVIOUS:
                shown_HW3[:] = before_HW3

    def _empty(self, frame: _Frame | None) -> np.ndarray:
        """Return what is shown in place of a frame: the background's colour, or black if the frame is transparent."""
        known = self._has_palette and self._background < len(self._palette)
        opaque = frame is not None and frame.transparent is None
        return self._palette[self._background] if known and opaque else np.zeros(3, np.uint8)

    def _parse(self, data: bytes, position: int) -> tuple[list[_Frame], bool]:
        """Return the frames, and whether the data ends before the end of the file is marked."""
        frames: list[_Frame] = []
        control = (0, 0, 0)  # flags, centiseconds, transparent index
        while position < len(data) and data[position] != TRAILER:
            if data[position] == EXTENSION:
                if data[position + 1 : position + 3] == bytes((GRAPHIC_CONTROL, 4)) and position + 7 < len(data):
                    control = struct.unpack("<BHB", data[position + 3 : position + 7])
                position = _end_of_blocks(data, position + 2)
            elif data[position] == IMAGE and position + 10 < len(data):
                left, top, width, height, flags = struct.unpack("<HHHHB", data[position + 1 : position + 10])
                palette, position = self._palette, position + 10
                if flags & HAS_PALETTE:
                    palette, position = _palette(data, position, flags)
                end = _end_of_blocks(data, position + 1)
                control_flags, delay, index = control
                transparent, disposal = index if control_flags & 1 else None, control_flags >> 2 & 7
                place = (left, top, width, height, flags & INTERLACED)
                frames.append(_Frame(*place, palette, transparent, disposal, delay, data[position:end]))
                control, position = (0, 0, 0), end
            else:
                break
        return frames, position >= len(data) or data[position] != TRAILER


def _palette(data: bytes, position: int, flags: int) -> tuple[np.ndarray, int]:
    """Return the palette (K, 3) at a position, and the position behind it."""
    count = 2 << (flags & 7)
    colours = data[position : position + 3 * count].ljust(3 * count, b"\0")
    return np.frombuffer(colours, np.uint8).reshape(count, 3), position + 3 * count


def _end_of_blocks(data: bytes, position: int) -> int:
    """Return the position behind the blocks that start at `position`: each a byte of length and as many bytes."""
    while position < len(data) and data[position]:
        position += 1 + data[position]
    return min(position + 1, len(data))


def _decode(frame: _Frame) -> np.ndarray:
    """Return the indices (H, W) of a frame, which Pillow decodes from a gif of this frame alone."""
    from PIL import Image

    # Pillow takes a palette of greys in order for none, and then keeps indices as levels: the same numbers.
    screen = struct.pack("<HHBBB", frame.width, frame.height, HAS_PALETTE | 7, 0, 0)
    greys = np.arange(256, dtype=np.uint8).repeat(3).tobytes()
    place = struct.pack("<BHHHHB", IMAGE, 0, 0, frame.width, frame.height, frame.interlaced)
    alone = b"GIF89a" + screen + greys + place + frame.pixels + bytes((TRAILER,))
    with Image.open(io.BytesIO(alone), formats=("GIF",)) as image:
        return np.asarray(image)
