"""Decoding of video files to upright RGB frames by PyAV: a whole file frame by frame, or a window of a file in memory.

    with open_video(path) as video:                       # video.fps, video.height, video.metadata, ...
        for seconds, frame in video.decode(max_pixels):   # raises for a file that is shorter than its header says
            rgb_HW3 = video.rgb(frame)
    frames_THW3 = read_window(mp4_bytes, start=30, count=17)

Colour tags and rotation are applied. `reader.py` reads whole clips, `streaming.py` clips of any length.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import ClipError
from .clip import unpack_metadata

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

# The containers that hold their own frames. Playlists (hls, concat, dash) are left out, since they refer to other files
# and hosts.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,ogg,flv,asf,h264,hevc,ivf,nut,mxf,y4m,yuv4mpegpipe"
MAX_FPS = 1000.0


class VideoFile:
    """An open video file: the contents of its header, and its frames.

    Attributes:
        fps: The mean rate in frames per second.
        height: The rows of pixels of the coded frames; a rotation may exchange it with `width`.
        width: The columns of pixels of the coded frames.
        declared: The number of frames that the header declares; 0 if it declares none.
        seconds: The duration that the header declares; 0 if it declares none.
        metadata: The metadata that reelm has stored in the file; empty if there is none.
    """

    def __init__(self, path: Path, container: "InputContainer") -> None:
        from av.stream import Disposition
        from av.video.reformatter import VideoReformatter

        streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not streams:
            raise ClipError(f"must hold a video stream, got {str(path)!r}")
        self._path, self._container, self._stream = path, container, streams[0]
        self._reformatter = VideoReformatter()
        stream, context = self._stream, self._stream.codec_context
        self.fps = float(stream.average_rate or stream.guessed_rate or 0)
        if not 0 < self.fps <= MAX_FPS:
            rule = f"must declare a frame rate of at most {MAX_FPS:g}"
            raise ClipError(f"{rule}, got {self.fps:g} in {str(path)!r}")
        self.height, self.width = context.height, context.width
        self.declared = _declared_frames(stream)
        self.seconds = (container.duration or 0) / 1e6
        if stream.duration and stream.time_base:
            self.seconds = float(stream.duration * stream.time_base)
        text = {key.lower(): value for key, value in container.metadata.items()}.get("comment")
        self.metadata, self._info = unpack_metadata(text)

    def decode(self, max_pixels: int, threads: int = 0) -> Iterator[tuple[float, "VideoFrame"]]:
        """Yield every frame with its time in seconds.

        Args:
            max_pixels: The largest height times width of a frame; the decoder tolerates a little over twice as many.
            threads: The number of threads; 0 leaves it to the decoder.

        Raises:
            ClipError: A frame is broken or too large, or the file ends too early.
        """
        import av

        context = self._stream.codec_context
        context.thread_type, context.thread_count = "AUTO", threads
        # A frame may be larger than the header says, and the decoder aligns sizes, so this limit is a loose one.
        context.options = {"max_pixels": str(2 * max_pixels + 2**16)}
        count, end = 0, 0.0
        try:
            for frame in self._decoded():
                time = count / self.fps if frame.time is None else frame.time
                count, end = count + 1, time + 1 / self.fps
                yield time, frame
        except (av.FFmpegError, UnicodeDecodeError) as error:
            total = f" of {self.declared}" if self.declared else ""
            got = f"{count}{total} frames from {str(self._path)!r} ({error})"
            raise ClipError(f"every frame must decode, got {got}") from error
        self._check_whole(count, end)

    def _decoded(self) -> "Iterator[VideoFrame]":
        for packet in self._container.demux(self._stream):
            # A recording that was killed ends in a partial packet. If the header declares no number of frames, the clip
            # is what precedes that packet.
            if packet.is_corrupt and not self.declared:
                yield from self._stream.decode(None)
                return
            yield from packet.decode()

    def _check_whole(self, count: int, end: float) -> None:
        path, declared = str(self._path), self.declared
        if count < declared:
            raise ClipError(f"must be whole, got {count} of {declared} declared frames from {path!r}")
        # Matroska declares the duration of each stream instead of the number of frames.
        tag = {key.upper(): value for key, value in self._stream.metadata.items()}.get("DURATION", "")
        matched = re.fullmatch(r"(\d{1,4}):(\d\d):(\d\d\.\d+)", tag)
        if matched is None:
            return
        hours, minutes, rest = matched.groups()
        seconds = int(hours) * 3600 + int(minutes) * 60 + float(rest)
        if end < seconds - 1.5 / float(self._stream.average_rate or 1):
            got = f"{count} frames, {end:.2f} of {seconds:.2f} declared seconds"
            raise ClipError(f"must be whole, got {got}, from {path!r}")

    def rgb(self, frame: "VideoFrame") -> np.ndarray:
        """Return a decoded frame as upright (H, W, 3) uint8 RGB, without the padding to even sizes of reelm's files."""
        rgb, info = to_rgb(self._reformatter, frame), self._info
        if info is not None and rgb.shape[:2] == (info.height + info.height % 2, info.width + info.width % 2):
            rgb = rgb[: info.height, : info.width]
        return np.rot90(rgb, round(getattr(frame, "rotation", 0) / 90))


@contextlib.contextmanager
def open_video(path: Path) -> Iterator[VideoFile]:
    """Open the video file at `path` as a context manager.

    Raises:
        ClipError: The file has no video stream or no valid frame rate.
        Exception: Any exception that FFmpeg raises on a broken header.
    """
    import av

    # Without "file:", FFmpeg would read the part of a name before a colon as a protocol.
    options = {"format_whitelist": CONTAINERS}
    with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
        yield VideoFile(path, container)


def _declared_frames(stream: "VideoStream") -> int:
    entries = getattr(stream, "index_entries", None)
    # An mp4 that was cut without re-encoding also counts frames that its edit list hides; the index marks those.
    if stream.frames and entries and "mp4" in stream.container.format.name:
        return sum(not entry.is_discard for entry in entries)
    return int(stream.frames)


def to_rgb(reformatter: "VideoReformatter", frame: "VideoFrame") -> np.ndarray:
    """Convert a decoded frame to (H, W, 3) uint8 RGB according to the frame's colour tags."""
    from av.video.reformatter import ColorRange, Colorspace

    name = frame.format.name
    if frame.format.is_rgb or name.startswith("pal"):
        return np.asarray(reformatter.reformat(frame, format="rgb24").to_ndarray())
    # ITU-T H.273 matrix coefficients. Frames without a tag are treated as most players do: BT.601 below 720 lines.
    matrices = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
    untagged = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    full_range = frame.color_range == ColorRange.JPEG or name.startswith("yuvj")
    rgb = reformatter.reformat(
        frame,
        format="rgb24",
        src_colorspace=matrices.get(frame.colorspace, int(untagged)),
        src_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    )
    return np.asarray(rgb.to_ndarray())


def read_window(data: bytes, start: int, count: int) -> np.ndarray:
    """Decode frames [start, start + count) of an mp4 of constant rate in memory, from the keyframe before `start` on.

    Args:
        data: The bytes of the file.
        start: The index of the first frame.
        count: The number of frames.

    Returns:
        The frames (count, H, W, 3) uint8; fewer where the file ends earlier.

    Raises:
        Exception: Any exception that FFmpeg raises on a broken file.
    """
    import av
    from av.video.reformatter import VideoReformatter

    reformatter, frames = VideoReformatter(), []
    with av.open(io.BytesIO(data), format="mp4") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # starting threads takes longer than decoding a window
        rate = stream.average_rate or 1
        if start:
            container.seek(round(start / rate / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if round(frame.pts * stream.time_base * rate) >= start:
                frames.append(to_rgb(reformatter, frame))
            if len(frames) == count:
                break
    return np.stack(frames)
