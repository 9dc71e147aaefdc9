"""Fragmented mp4 of frames as they come: the bytes that a player can show at once.

live = LiveMp4(fps=8)
send(live.encode(frames_THW3))                      # bytes; those of a frame come with the next one
send(live.finish())
"""

import io

import numpy as np

from .frame_encoder import VideoEncoder


class _Parts(io.RawIOBase):
    """A file that is written and taken away."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, part: object) -> int:
        self._parts.append(bytes(part))  # type: ignore[call-overload]
        return len(self._parts[-1])

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


class LiveMp4:
    """Encodes frames to H.264 in fragmented mp4, one fragment for each frame."""

    def __init__(self, fps: float) -> None:
        """Begin a clip of so many frames per second."""
        self._file = _Parts()
        self._encoder = VideoEncoder(self._file, ".mp4", fps, "", growing=True)  # type: ignore[arg-type]

    def encode(self, frames_THW3: np.ndarray) -> bytes:
        """Return the bytes that are complete after these frames (T, H, W, 3) uint8."""
        self._encoder.write(frames_THW3, "the stream")
        return self._file.take()

    def finish(self) -> bytes:
        """Return the last bytes."""
        self._encoder.finish()
        return self._file.take()
