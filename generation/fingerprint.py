"""The fingerprint of a clip's pictures, by which a file shows whether its tokens are still those of its pictures.

fingerprint = Fingerprint.of(frames_THW3)
values = fingerprint.pack()                                 # JSON values, for the metadata of the file
Fingerprint.unpack(values, frames_THW3.shape).compare(read_THW3)    # "equal", "alike" or "other"

A fingerprint holds the mean colours of the cells of a grid over every frame, and a digest of all pixels. Means barely
change when a file is encoded again, at any quality that is fit to be seen; they do when pictures are graded, moved,
mirrored, covered, put in another order or replaced.
"""

import base64
import binascii
import hashlib
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from ..core.json_values import Json

MAX_CELLS = 16  # along each axis
CELL = 8  # pixels, in frames of up to MAX_CELLS * CELL
WINDOW = 16  # frames
REACH = 8  # frames
# The limits of `_is_alike`, between what encoders do and what changes of the pictures do; levels of 255.
MOST_SHIFT, MOST_LOCAL_SHIFT, MOST_FRAME_ERROR = 1.34, 8.0, 3.5
LEAST_NOISE, MOST_MISPLACED = 0.4, 0.32


# How frames compare with others; see `Fingerprint.compare`.
Likeness: TypeAlias = Literal["equal", "alike", "other"]


class FingerprintBuilder:
    """Makes the fingerprint of a clip whose frames come in parts."""

    def __init__(self) -> None:
        self._digest, self._means = hashlib.sha256(), []

    _means: list[np.ndarray]

    def add(self, frames_THW3: np.ndarray) -> None:
        """Add the next frames, uint8."""
        self._digest.update(_bytes(frames_THW3))
        self._means.append(np.rint(_cell_means(frames_THW3)).astype(np.uint8))

    def build(self) -> "Fingerprint":
        """Return the fingerprint of the frames so far, at least one."""
        return Fingerprint(self._digest.hexdigest(), np.concatenate(self._means))


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """The fingerprint of a clip's frames.

    Attributes:
        digest: The SHA-256 of all pixels.
        means_Thw3: The mean colours of the cells of the grid, uint8.
    """

    digest: str
    means_Thw3: np.ndarray

    @classmethod
    def of(cls, frames_THW3: np.ndarray) -> "Fingerprint":
        """Return the fingerprint of the frames of a whole clip, uint8."""
        builder = FingerprintBuilder()
        builder.add(frames_THW3)
        return builder.build()

    def compare(self, frames_THW3: np.ndarray) -> Likeness:
        """Compare the fingerprint with frames, uint8.

        Returns:
            "equal" if every pixel is the same; "alike" if the pictures are the same but for the loss of an encoder;
            "other" if they are other ones.
        """
        if frames_THW3.shape[:1] + _cells(frames_THW3.shape) != self.means_Thw3.shape[:3]:
            return "other"
        if hashlib.sha256(_bytes(frames_THW3)).hexdigest() == self.digest:
            return "equal"
        return "alike" if _is_alike(self.means_Thw3.astype(np.float32), _cell_means(frames_THW3)) else "other"

    def pack(self) -> Json:
        """Return the fingerprint as JSON values."""
        # Differences in time, modulo 256, are small and therefore take little space.
        changes = np.diff(self.means_Thw3, axis=0, prepend=np.zeros_like(self.means_Thw3[:1]))
        return {"sha256": self.digest, "means": base64.b64encode(zlib.compress(changes.tobytes(), 9)).decode()}

    @classmethod
    def unpack(cls, values: object, shape: Sequence[int]) -> "Fingerprint | None":
        """Return the fingerprint of frames of the shape (T, H, W) from the values of `pack`; None for other values."""
        if not isinstance(values, dict) or not all(isinstance(values.get(key), str) for key in ("sha256", "means")):
            return None
        grid = (shape[0], *_cells(shape), 3)
        size = math.prod(grid)
        try:
            # At most one byte more than is valid, so that a decompression bomb is not unpacked.
            data = zlib.decompressobj().decompress(base64.b64decode(values["means"], validate=True), size + 1)
        except (binascii.Error, zlib.error, ValueError):
            return None
        if len(data) != size:
            return None
        changes = np.frombuffer(data, np.uint8).reshape(grid)
        return cls(values["sha256"], np.cumsum(changes, axis=0, dtype=np.uint8))


def _bytes(frames_THW3: np.ndarray) -> memoryview:
    return np.ascontiguousarray(frames_THW3).data


def _cells(shape: Sequence[int]) -> tuple[int, int]:
    """Return the rows and columns of the grid over frames of the shape (T, H, W)."""
    rows, columns = (max(1, min(MAX_CELLS, size // CELL)) for size in shape[1:3])
    return rows, columns


def _cell_means(frames_THW3: np.ndarray) -> np.ndarray:
    """Return the mean colours (T, h, w, 3) of the cells of the grid, float32."""
    count, height, width, _ = frames_THW3.shape
    rows, columns = _cells(frames_THW3.shape)
    tops, lefts = (np.arange(cells) * size // cells for cells, size in ((rows, height), (columns, width)))
    areas = np.diff(tops, append=height)[:, None] * np.diff(lefts, append=width)
    means_Thw3 = np.empty((count, rows, columns, 3), np.float32)
    for index, frame_HW3 in enumerate(frames_THW3):  # one by one, so that long clips take no more memory
        by_row = np.add.reduceat(frame_HW3, tops, axis=0, dtype=np.uint32)
        means_Thw3[index] = np.add.reduceat(by_row, lefts, axis=1) / areas[..., None]
    return means_Thw3


def _is_alike(saved_Thw3: np.ndarray, read_Thw3: np.ndarray) -> bool:
    """Return whether two clips of cell means differ by no more than the loss of an encoder."""
    shift, local_shift, frame_error, misplaced = differences(saved_Thw3, read_Thw3)
    small = shift <= MOST_SHIFT and local_shift <= MOST_LOCAL_SHIFT and frame_error <= MOST_FRAME_ERROR
    return small and misplaced <= MOST_MISPLACED


def differences(saved_Thw3: np.ndarray, read_Thw3: np.ndarray) -> tuple[float, float, float, float]:
    """Return how far the cell means that were read from a file are from those that were saved, in four figures.

    Args:
        saved_Thw3: The saved means, float32.
        read_Thw3: The means of the frames that were read, float32.

    Returns:
        The change that stays for WINDOW frames, as its root mean square over the cells and as its largest value: a
        grade, a shift or a logo stays, while the noise of encoders changes from frame to frame. The largest mean
        absolute error of a frame: a frame was replaced by another picture. And by how much a frame is nearer to another
        one within REACH than to its own, as a share of the usual error of a frame: frames were moved in time.
    """
    count = len(saved_Thw3)
    error_Thw3 = read_Thw3 - saved_Thw3
    starts = np.arange(0, max(1, count - WINDOW // 2), WINDOW)  # a short rest belongs to the window before it
    lengths = np.diff(starts, append=count)
    shift_nhw3 = np.add.reduceat(error_Thw3, starts, axis=0) / lengths[:, None, None, None]
    shifts = np.sqrt(np.square(shift_nhw3).mean((1, 2, 3)))
    own_T = np.sqrt(np.square(error_Thw3).mean((1, 2, 3)))
    usual, misplaced = max(LEAST_NOISE, float(np.median(own_T))), 0.0
    for step in range(1, min(REACH + 1, count)):
        for read, saved, own in (
            (read_Thw3[step:], saved_Thw3[:-step], own_T[step:]), (read_Thw3[:-step], saved_Thw3[step:], own_T[:-step])
        ):  # fmt: skip
            others = np.sqrt(np.square(read - saved).mean((1, 2, 3)))
            misplaced = max(misplaced, float((own - others).max()) / usual)
    frame_error = float(np.abs(error_Thw3).mean((1, 2, 3)).max())
    return float(shifts.max()), float(np.abs(shift_nhw3).max()), frame_error, misplaced
