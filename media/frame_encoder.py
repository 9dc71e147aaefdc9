"""Encoding of frames to video files by PyAV: H.264 in BT.709 (`.mp4`), or lossless ffv1 (`.mkv`).

    encoder = VideoEncoder(path, ".mp4", 8, pack_metadata(None, info))       # writer.py writes whole clips
    encoder.write(frames_THW3, "ball.mp4")                                   # any number of times
    encoder.finish()

PyAV is used directly, since imageio's plugin for it (2.38) passes on container options (faststart works) but no encoder
options (crf, preset, tune) and no colour tags.
"""

import contextlib
import heapq
from collections.abc import Iterable, Iterator
from fractions import Fraction
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..core.errors import ReelmError
from ..core.progress import note
from .clip import ClipInfo, pack_metadata
from .filters import EXACT, FilterGraph

if TYPE_CHECKING:
    from .sound import Sound

# The range of the levels of each pixel format: limited for H.264, full for RGB.
LEVELS = {"yuv420p": "tv", "bgr0": "pc"}
VIDEO = {".mp4": ("mp4", "libx264", "yuv420p"), ".mkv": ("matroska", "ffv1", "bgr0")}


class VideoEncoder:
    """An encoder of frames to a video file. `finish` completes the file; `close` without it leaves the file incomplete.

    Args:
        path: The file to write, or an object with the method `write` for a growing file.
        suffix: The format, ".mp4" or ".mkv".
        fps: The frames per second.
        text: The metadata from `pack_metadata`.
        growing: Whether the file can be played while it is written.
        keyframes: The distance of keyframes. With it no frame depends on a later one, so that any frame can be read by
            decoding few others, and the bytes are the same on any number of cores. None leaves this to the encoder.
    """

    def __init__(
        self, path: Path | BinaryIO, suffix: str, fps: float, text: str, *, growing: bool = False,
        keyframes: int | None = None,
    ) -> None:  # fmt: skip
        import av

        container, self._codec, self._format = VIDEO[suffix]
        self._growing, self._keyframes = growing, keyframes
        # All broadcast rates are fractions with a denominator of at most 1001.
        self._rate = Fraction(fps).limit_denominator(1001)
        options = {}
        if suffix == ".mp4":
            options["movflags"] = "frag_every_frame+empty_moov+default_base_moof" if growing else "faststart"
        if growing:
            # By default Matroska buffers frames for up to 5 seconds, until a cluster is full.
            options |= {"flush_packets": "1"} | ({"cluster_time_limit": "1"} if suffix == ".mkv" else {})
        target: Any = f"file:{path}" if isinstance(path, Path) else path
        self._container = av.open(target, "w", format=container, container_options=options)
        self._container.metadata["comment"] = text
        self._stream: Any = None
        self._graph: Any = None
        self._count = 0

    def _open_stream(self, height: int, width: int) -> None:
        options = {}
        if self._codec == "libx264":
            # With mbtree, which reads memory that it has not written, the same frames sometimes give other pixels.
            options = {"crf": "17", "preset": "medium", "x264-params": "mbtree=0"}
            if self._growing:
                # Without lookahead a frame is in the file as soon as the next one is written.
                options |= {"tune": "zerolatency", "g": str(max(1, round(self._rate)))}
            if self._keyframes is not None:
                distance = str(self._keyframes)
                options |= {"g": distance, "keyint_min": distance, "sc_threshold": "0", "bf": "0", "threads": "1"}
                # These files are training data: at 128x128, crf 12 is 1 to 2 dB closer to the source than 17, for twice
                # the bytes.
                options |= {"crf": "12"}
        elif min(height, width) < 16:
            # ffv1 cannot split a frame one pixel wide into its usual number of slices.
            options = {"slices": "1"}
        stream = self._container.add_stream(self._codec, rate=self._rate, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, self._format
        if self._format == "yuv420p":
            context = stream.codec_context
            # ITU-T H.273: 1 means BT.709 for the first three, and the limited range for the last.
            context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
        self._stream = stream
        # Chroma is the average of the pixels that share it, and `normalization.py` repeats it, so that a clip can be
        # written and read any number of times without its colours moving. One thread, so that bytes are the same.
        scale = f"out_color_matrix=bt709:in_range=pc:out_range={LEVELS[self._format]}:flags=area+{EXACT}"
        source = f"video_size={width}x{height}:pix_fmt=rgb24:time_base={1 / self._rate}"
        self._graph = FilterGraph(source, [("scale", scale), ("format", self._format)], threads=1)

    def write(self, frames_THW3: np.ndarray, name: str) -> None:
        """Encode frames.

        Args:
            frames_THW3: The frames, uint8.
            name: The name of the output file in the message to the user that odd sizes are padded.
        """
        from av import VideoFrame

        height, width = frames_THW3.shape[1:3]
        pad = (height % 2, width % 2) if self._format == "yuv420p" else (0, 0)
        if self._stream is None:
            self._open_stream(height + pad[0], width + pad[1])
            if any(pad):
                to = f"{width + pad[1]}x{height + pad[0]}"
                note(f"{name}: H.264 has no odd sizes, so {width}x{height} is padded to {to} by repeating its edge")
        for image in frames_THW3:
            if any(pad):
                image = np.pad(image, ((0, pad[0]), (0, pad[1]), (0, 0)), mode="edge")
            self._graph.push(VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"))
            frame = self._graph.pull()
            frame.pts, frame.time_base = self._count, 1 / self._rate
            self._count += 1
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Flush the encoder and write the end of the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def close(self) -> None:
        """Close the file in whatever state it is; after `finish` this does nothing."""
        with contextlib.suppress(Exception):
            self._container.close()


def encode_video(
    path: Path,
    suffix: str,
    parts: Iterable[np.ndarray],
    fps: float,
    text: str,
    *,
    name: str,
    sound: "Sound | None" = None,
) -> None:
    """Encode the parts of a clip, one after the other, to a video file, with the sound if there is one.

    Args:
        path: The file to write.
        suffix, fps, text: See `VideoEncoder`.
        parts: The frames (n, H, W, 3), uint8, of each part.
        name: The name of the output file in notes to the user.
        sound: The sound to copy. The pictures are then in a second file beside `path` for the time of writing.
    """
    pictures = path if sound is None else path.with_stem(f"{path.stem}-pictures")
    try:
        with contextlib.closing(VideoEncoder(pictures, suffix, fps, text)) as encoder:
            for part in parts:
                encoder.write(part, name)
            encoder.finish()
        if sound is not None:
            remux(pictures, path, suffix, text, sound)
    finally:
        if sound is not None:
            pictures.unlink(missing_ok=True)


def remux(source: Path, target: Path, suffix: str, text: str, sound: "Sound | None" = None) -> None:
    """Copy the packets of a file into another one with an index, without encoding them again.

    Args:
        source: The file to read.
        target: The file to write.
        suffix: The format of `target`, ".mp4" or ".mkv".
        text: The metadata of `target` from `pack_metadata`.
        sound: The sound to copy with them.
    """
    import av

    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    with (
        av.open(f"file:{source}") as old,
        av.open(f"file:{target}", "w", format=VIDEO[suffix][0], container_options=options) as new,
        contextlib.ExitStack() as stack,
    ):
        new.metadata["comment"] = text
        template = old.streams.video[0]
        stream = new.add_stream_from_template(template)
        timed = (
            (float(packet.dts * packet.time_base), packet) for packet in old.demux(template) if packet.dts is not None
        )
        heard = [] if sound is None else [stack.enter_context(sound.copy_into(new))]
        for _, packet in heapq.merge(timed, *heard, key=itemgetter(0)):
            if packet.stream is template:
                packet.stream = stream
            new.mux(packet)


def write_frames(path: Path, frames: Iterable[np.ndarray], fps: float, *, keyframes: int) -> int:
    """Write an mp4 for random access, not atomically, from an iterator of frames of which one at a time is in memory.

    Args:
        path: The file to write.
        frames: The frames (H, W, 3) uint8, all of one even size, at least one.
        fps: The frames per second.
        keyframes: The distance of keyframes; see `VideoEncoder`.

    Returns:
        The number of frames.

    Raises:
        ReelmError: The disk is full or refuses to write.
    """
    count, encoder = 0, None
    with writing(path), contextlib.ExitStack() as stack:
        for frame in frames:
            if encoder is None:
                text = pack_metadata(None, ClipInfo(float(fps), None, *frame.shape[:2]))
                encoder = VideoEncoder(path, ".mp4", fps, text, keyframes=keyframes)
                stack.enter_context(contextlib.closing(encoder))
            encoder.write(frame[None], path.name)
            count += 1
        if encoder is not None:
            encoder.finish()
    return count


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert errors of the disk and the encoders, which are of many types, to a `ReelmError` that names the file."""
    try:
        yield
    except ReelmError:
        raise
    except Exception as error:
        raise ReelmError(f"output: {str(path)!r} could not be written: {error}") from error
