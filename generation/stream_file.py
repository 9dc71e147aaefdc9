"""A stream to a file that can be played while it grows, and that carries its tokens as every clip of reelm does.

written = write_stream(generator.stream("a blue ring spins", seconds=60), "ring.mp4")
written.frames, written.seconds
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import require
from ..core.progress import progress
from ..media.writer import ClipWriter
from .stream import ClipStream
from .video import Video, video_metadata


@dataclass(frozen=True)
class StreamedClip:
    """A clip that was written while it was made.

    Attributes:
        path: the file.
        frames, height, width: its size, in frames and pixels.
        fps: frames a second.
        prompt: the latest.
        seed: what it was drawn from.
        settings: as `Video.settings`.
        tokens: how many video tokens the frames have.
        took_seconds: of drawing, decoding and writing them.
    """

    path: Path
    frames: int
    height: int
    width: int
    fps: float
    prompt: str
    seed: int
    settings: dict[str, Any]
    tokens: int
    took_seconds: float

    @property
    def seconds(self) -> float:
        """Duration of the clip."""
        return self.frames / self.fps


def write_stream(stream: ClipStream, path: str | Path, *, stop: Callable[[], bool] = lambda: False) -> StreamedClip:
    """Write a stream's frames as they come, until it ends or is stopped.

    Args:
        stream: at its beginning; where `stop` ended the file, more frames can be read from it.
        path: the file to write, .mp4 or .mkv; its .partial file beside it can be played while it grows.
        stop: asked after each latent frame; where it says True, the clip ends there.

    Raises:
        ReelmError: the path cannot be written, or frames of the stream were read before; nothing was drawn. Or the disk
            refused: the .partial file stays.
    """
    require(not len(stream.tokens), "stream", "must be at its beginning", f"{len(stream.tokens)} latent frames on")
    began, height, width = time.perf_counter(), 0, 0
    with ClipWriter(path, stream.fps) as writer:
        for frames_THW3 in progress(stream, "streaming", unit="latent frame"):
            if not writer.frames:
                _, height, width, _ = frames_THW3.shape
                writer.metadata = _metadata(stream, (1, height, width))
            writer.write(frames_THW3)
            if stop():
                break
        writer.metadata = _metadata(stream, (writer.frames, height, width), {"video": stream.tokens, **stream.segments})
    return StreamedClip(
        writer.path, writer.frames, height, width, stream.fps, stream.prompt, stream.seed, stream.settings,
        stream.tokens.size, time.perf_counter() - began,
    )  # fmt: skip


def _metadata(
    stream: ClipStream, shape: tuple[int, int, int], grids: Mapping[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """The table that the file carries, of a clip of so many frames, rows and columns, with its tokens by segment."""
    # Of the frames only their shape counts: they are in the file, and an endless stream fits no memory.
    none_THW3, segments = np.broadcast_to(np.uint8(0), (*shape, 3)), dict(grids or {})
    clip = Video(
        none_THW3, stream.fps, tokens=segments.pop("video", None), segments=segments, prompt=stream.prompt,
        seed=stream.seed, settings=stream.settings,
    )  # fmt: skip
    return video_metadata(clip)
