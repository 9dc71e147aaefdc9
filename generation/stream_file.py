"""Write a stream to a file that can be played while it grows, and that holds the tokens like every clip of reelm.

written = write_stream(generator.stream("a blue ring spins", seconds=60), "ring.mp4")
written.frames, written.seconds
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..core.errors import require
from ..core.json_values import Json
from ..core.progress import progress
from ..media.writer import ClipWriter
from .fingerprint import Fingerprint, FingerprintBuilder
from .session_files import SessionFiles
from .stream import ClipStream
from .video import Video, video_metadata


@dataclass(frozen=True)
class StreamedClip:
    """A clip that was written while it was drawn.

    Attributes:
        path: The file.
        frames: The number of frames.
        height, width: The size of a frame in pixels.
        fps: The frames per second.
        prompt: The latest prompt.
        seed: The seed of the noise.
        settings: The settings it was drawn with, as in `Video.settings`.
        tokens: The number of video tokens.
        took_seconds: The time of drawing, decoding and writing the frames.
    """

    path: Path
    frames: int
    height: int
    width: int
    fps: float
    prompt: str
    seed: int
    settings: Json
    tokens: int
    took_seconds: float

    @property
    def seconds(self) -> float:
        """The duration of the clip in seconds."""
        return self.frames / self.fps


def write_stream(
    stream: ClipStream,
    path: str | Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    overwrite: bool = False,
    sessions: SessionFiles | None = None,
) -> StreamedClip:
    """Write a stream's frames as they come, until it ends or is stopped.

    Args:
        stream: The stream, at its beginning; if `stop` ends the file, more frames can be read from the stream.
        path: The file to write, .mp4 or .mkv; the .partial file next to it can be played while it grows.
        stop: A function that is called after each latent frame, and returns True to end the file there.
        overwrite: Whether a file that is not a clip of reelm may be replaced.
        sessions: Where the tokens are saved if an exception ends the writing; by default beside `path`.

    Raises:
        ReelmError: The path cannot be written, or frames of the stream were read before; nothing was drawn. Or writing
            failed later: the .partial file is kept, and a session with its tokens.
    """
    require(not len(stream.tokens), "stream", "must be at its beginning", f"{len(stream.tokens)} latent frames on")
    began, height, width, fingerprint = time.perf_counter(), 0, 0, FingerprintBuilder()
    writer = ClipWriter(path, stream.fps, overwrite=overwrite)
    with sessions or SessionFiles([path]) as kept, _tokens_kept(stream, kept), writer:
        for frames_THW3 in progress(stream, "streaming", unit="latent frame"):
            if not writer.frames:
                _, height, width, _ = frames_THW3.shape
                writer.metadata = growing_metadata(stream, (1, height, width))
            writer.write(frames_THW3)
            fingerprint.add(frames_THW3)
            if stop():
                break
        shape, grids = (writer.frames, height, width), {"video": stream.tokens, **stream.segments}
        writer.metadata = growing_metadata(stream, shape, grids, fingerprint.build())
    return StreamedClip(
        writer.path, writer.frames, height, width, stream.fps, stream.prompt, stream.seed, stream.settings,
        stream.tokens.size, time.perf_counter() - began,
    )  # fmt: skip


@contextlib.contextmanager
def _tokens_kept(stream: ClipStream, sessions: SessionFiles) -> Iterator[None]:
    """Save the session of the stream where an exception comes."""
    try:
        yield
    except BaseException:
        sessions.save([stream.session])
        raise


class Growing(Protocol):
    """A clip whose frames come one after the other."""

    @property
    def fps(self) -> float:
        """The frames per second."""

    @property
    def prompt(self) -> str:
        """The latest prompt."""

    @property
    def seed(self) -> int:
        """The seed of the noise."""

    @property
    def settings(self) -> Json:
        """The record of its generation."""


def growing_metadata(
    clip: Growing, shape: tuple[int, int, int], grids: Mapping[str, np.ndarray] | None = None,
    fingerprint: Fingerprint | None = None,
) -> Json:  # fmt: skip
    """Return the metadata of a clip of this many frames, rows and columns, with its tokens by segment."""
    # Only the shape of the frames is used: they are in the file, and those of an endless stream fit into no memory.
    empty_THW3, segments = np.broadcast_to(np.uint8(0), (*shape, 3)), dict(grids or {})
    video = Video(
        empty_THW3, clip.fps, tokens=segments.pop("video", None), segments=segments, prompt=clip.prompt,
        seed=clip.seed, settings=clip.settings,
    )  # fmt: skip
    return video_metadata(video, fingerprint)
