"""Normalization of decoded frames: what a player shows, as upright RGB with square pixels, by one libavfilter graph.

    normalizer = FrameNormalizer(pixel_aspect=Fraction(64, 45))
    for tag, rgb_HW3 in normalizer.frames((tag, frame) for ...):       # in order; `tag` is anything
    normalizer.notes                                                   # ["pixels of 64:45 are made square", ...]

In this order: interlaced frames are deinterlaced (bwdif, one frame for each coded frame), the crop of the container is
applied, Y'CbCr is converted by the frame's own matrix and range, HDR is mapped to SDR, pixels become square, frames of
another size are scaled to that of the first, transparent parts are shown on black, and the display matrix is applied.

Chroma of 4:2:0 and 4:2:2 is repeated, not interpolated: the encoder's average over the same pixels then gives the same
chroma again, so that a clip can be read and written any number of times without its colours moving.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from ..core.errors import ClipError
from .filters import EXACT, FilterGraph

if TYPE_CHECKING:
    from av import VideoFrame

T = TypeVar("T")

# ITU-T H.273 MatrixCoefficients, with libswscale's names of those that it converts.
MATRICES = {1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc"}
OTHER_MATRICES = {
    8: "YCgCo", 10: "BT.2020 constant luminance", 11: "SMPTE ST 2085", 12: "chromaticity-derived",
    13: "chromaticity-derived constant luminance", 14: "ICtCp", 15: "IPT-C2", 16: "YCgCo-Re", 17: "YCgCo-Ro",
}  # fmt: skip
FULL_RANGE = 2
# ITU-T H.273 TransferCharacteristics of HDR: SMPTE ST 2084 and ARIB STD-B67.
HDR = {16: "PQ", 18: "HLG"}
BT2020_PRIMARIES, UNSPECIFIED = 9, 2


class UnsupportedColoursError(ClipError):
    """The colours of a frame are of a kind that is not converted."""


class Crop(NamedTuple):
    """The pixels that a container hides at each edge of the coded frame."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


WHOLE = Crop()


class _Shape(NamedTuple):
    """What a graph is made for; a frame that differs needs another graph."""

    width: int
    height: int
    format: str
    matrix: int
    range: int
    transfer: int
    primaries: int
    rotation: int
    interlaced: bool


class FrameNormalizer:
    """Converts the frames of one stream to RGB.

    Args:
        pixel_aspect: The width of a pixel over its height.
        crop: The pixels that the container hides.
        fields: The order of fields, "tff" or "bff", of frames that do not tell themselves that they are interlaced.
        threads: The number of threads of the filters; 0 leaves it to libavfilter.

    Attributes:
        notes: What was done to the frames beyond a conversion of colours, one line each.
    """

    def __init__(
        self, pixel_aspect: Fraction = Fraction(1), crop: Crop = WHOLE, fields: str = "", threads: int = 0
    ) -> None:
        self.notes: list[str] = []
        self._pixel_aspect, self._crop, self._fields, self._threads = pixel_aspect, crop, fields, threads
        self._size: tuple[int, int] | None = None  # (height, width) of the first frame, before the display matrix
        self._shape: _Shape | None = None
        self._graph: FilterGraph | None = None
        self._matrix: np.ndarray | None = None

    def shown_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) at which coded frames of this size are shown, before the display matrix."""
        crop = self._crop
        width, height = width - crop.left - crop.right, height - crop.top - crop.bottom
        return max(1, height), max(1, round(width * self._pixel_aspect))

    def frames(self, frames: Iterable[tuple[T, "VideoFrame"]]) -> Iterator[tuple[T, np.ndarray]]:
        """Yield each frame as (H, W, 3) uint8 RGB, with its tag, in order.

        Raises:
            UnsupportedColoursError: The matrix of a frame is one that is not converted.
        """
        pending: deque[T] = deque()
        for tag, frame in frames:
            shape = self._shape_of(frame)
            if self._graph is None or shape != self._shape:
                yield from self._flush(pending)
                self._shape, self._graph = shape, self._new_graph(shape, frame)
                # Not of each frame: one whose side data was looked at stays in memory until the garbage is collected.
                self._matrix = _display_matrix(frame)
            pending.append(tag)
            self._graph.push(frame)
            yield from self._ready(pending)
        yield from self._flush(pending)

    def _flush(self, pending: deque[T]) -> Iterator[tuple[T, np.ndarray]]:
        if self._graph is not None:
            self._graph.push(None)
            yield from self._ready(pending)
        self._shape = self._graph = None

    def _ready(self, pending: deque[T]) -> Iterator[tuple[T, np.ndarray]]:
        """Yield the frames that are ready; the deinterlacer returns each one after it has seen the next."""
        while self._graph is not None and pending and (frame := self._graph.pull()) is not None:
            rgb = _view(frame)
            shown = upright(_on_black(rgb) if rgb.shape[2] == 4 else rgb, self._matrix)
            yield pending.popleft(), np.ascontiguousarray(shown)  # torch takes no views that run backwards

    def _shape_of(self, frame: "VideoFrame") -> _Shape:
        # The deinterlacer leaves progressive frames as they are, so it stays once it was needed.
        interlaced = bool(frame.interlaced_frame) or (self._shape is not None and self._shape.interlaced)
        return _Shape(
            frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range),
            int(frame.color_trc), int(frame.color_primaries), int(frame.rotation), interlaced,
        )  # fmt: skip

    def _new_graph(self, shape: _Shape, frame: "VideoFrame") -> FilterGraph:
        time_base = frame.time_base or Fraction(1, 1000)
        source = (
            f"video_size={shape.width}x{shape.height}:pix_fmt={shape.format}:time_base={time_base}"
            f":colorspace={shape.matrix}:range={shape.range}"
        )
        return FilterGraph(source, self._filters(shape, frame), self._threads)

    def _filters(self, shape: _Shape, frame: "VideoFrame") -> Iterator[tuple[str, str]]:
        if shape.interlaced or self._fields:
            self._note("interlaced: deinterlaced by bwdif, one frame for two fields")
            which = "interlaced" if shape.interlaced else f"all:parity={self._fields}"
            yield "bwdif", f"mode=send_frame:deint={which}"
        crop = self._crop
        if any(crop):
            self._note(f"cropped as the container says: left {crop.left}, top {crop.top}, right {crop.right}, "
                       f"bottom {crop.bottom} pixels")  # fmt: skip
            shown = f"iw-{crop.left + crop.right}:ih-{crop.top + crop.bottom}"
            yield "crop", f"{shown}:{crop.left}:{crop.top}:exact=1"
        size = self.shown_size(shape.height, shape.width)
        if self._pixel_aspect != 1:
            aspect = f"{self._pixel_aspect.numerator}:{self._pixel_aspect.denominator}"
            self._note(f"pixels of {aspect} made square: {shape.width}x{shape.height} -> {size[1]}x{size[0]}")
        if self._size is None:
            self._size = size
        if size != self._size:
            before, after = f"{size[1]}x{size[0]}", f"{self._size[1]}x{self._size[0]}"
            self._note(f"the size of the frames changes: {before} is scaled to {after}")
        coded = (shape.height - crop.top - crop.bottom, shape.width - crop.left - crop.right)
        yield "scale", ":".join(self._scale_options(shape, frame, resized=coded != self._size))
        yield "format", "rgba" if _has_alpha(frame) else "rgb24"

    def _scale_options(self, shape: _Shape, frame: "VideoFrame", *, resized: bool) -> Iterator[str]:
        assert self._size is not None
        yield f"flags={'bicubic' if resized else 'neighbor'}+{EXACT}"
        yield f"w={self._size[1]}:h={self._size[0]}"
        if shape.transfer in HDR:
            self._note(f"HDR ({HDR[shape.transfer]}) mapped to SDR: BT.709, by libswscale's perceptual tone curve")
            yield "out_transfer=bt709:out_primaries=bt709:intent=perceptual"
            if shape.primaries == UNSPECIFIED:
                yield "in_primaries=bt2020"
        if frame.format.is_rgb or shape.format.startswith(("pal", "xyz", "gbr")):
            return
        full = shape.range == FULL_RANGE or shape.format.startswith("yuvj")
        yield f"in_color_matrix={_matrix(shape)}:in_range={'pc' if full else 'tv'}:out_range=pc"

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)


def _matrix(shape: _Shape) -> str:
    if shape.matrix in OTHER_MATRICES:
        name = OTHER_MATRICES[shape.matrix]
        raise UnsupportedColoursError(
            f"the colour matrix must be BT.601, BT.709, BT.2020 (non-constant), FCC or SMPTE 240M, got {name}"
        )
    # As most players do where there is no tag: BT.601 for standard definition.
    high_definition = shape.width >= 1280 or shape.height > 576
    return MATRICES.get(shape.matrix, "bt709" if high_definition else "smpte170m")


def _view(frame: "VideoFrame") -> np.ndarray:
    """Return the pixels (H, W, C) of a packed frame, without a copy; the array keeps the frame alive."""
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height]
    channels = 4 if frame.format.name == "rgba" else 3
    return rows[:, : channels * frame.width].reshape(frame.height, frame.width, channels)


def _has_alpha(frame: "VideoFrame") -> bool:
    return frame.format.name.startswith("pal") or any(component.is_alpha for component in frame.format.components)


def _on_black(rgba_HW4: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) RGB of straight alpha over black, rounded to the nearest level."""
    product = rgba_HW4[..., :3].astype(np.uint16) * rgba_HW4[..., 3:]
    return ((product + 127) // 255).astype(np.uint8)


def _display_matrix(frame: "VideoFrame") -> np.ndarray | None:
    data = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else np.frombuffer(bytes(data), np.int32)


def upright(rgb_HW3: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Return a view of a frame as its display matrix shows it, to the nearest quarter turn.

    Args:
        rgb_HW3: The frame.
        matrix: The matrix (a, b, u, c, d, v, x, y, w) of ISO/IEC 14496-12, which shows the pixel at column x and row y
            at column a x + c y and row b x + d y; None for none.
    """
    if matrix is None or len(matrix) != 9:
        return rgb_HW3
    a, b, c, d = (int(matrix[index]) for index in (0, 1, 3, 4))
    if abs(a) + abs(d) < abs(b) + abs(c):
        rgb_HW3, (flip_rows, flip_columns) = rgb_HW3.transpose(1, 0, 2), (b < 0, c < 0)
    else:
        flip_rows, flip_columns = d < 0, a < 0
    return rgb_HW3[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
