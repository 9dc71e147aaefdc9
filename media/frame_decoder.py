"""Decoding of video files to upright RGB frames by PyAV: a whole file frame by frame, or a window of a file in memory.

    with open_video(path) as video:                       # video.fps, video.height, video.metadata, ...
        for start, stop, rgb_HW3 in video.rgb(video.decode(max_pixels)):
            ...                                           # shown from `start` to `stop`, in seconds
    video.notes                                           # what is missing, and what was done to the frames
    frames_THW3 = read_window(mp4_bytes, start=30, count=17)

Everything that decodes is used. `reader.py` reads whole clips, `streaming.py` clips of any length.
"""

import contextlib
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import ClipError
from . import matroska
from .clean_aperture import read_clean_apertures
from .clip import unpack_metadata
from .completeness import is_cut
from .damage import Damage
from .normalization import Crop, FrameNormalizer, UnsupportedColoursError
from .timeline import Timeline, nominal_rate

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.codec import CodecContext
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

# The containers that hold their own frames. Playlists (hls, concat, dash) are left out, since they refer to other files
# and hosts.
CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpeg,mpegts,ogg,flv,asf,nut,mxf,gxf,dv,rm,wtv,h263,h264,hevc,mpegvideo,m4v,vc1,ivf,obu,"
    "av1,y4m,yuv4mpegpipe"
)
# Containers whose clock may start again where recordings were joined, and whose packets may be lost on the way.
BROADCAST = ("mpegts", "mpeg")
MAX_FPS = 1000.0
# Less than one frame an hour is a damaged rate; the clip then has that of a still image.
MIN_FPS = 1 / 3600
# Headers of variable rates declare the tick of their clock, such as 1000, for a rate.
MAX_TRUSTED_FPS = 240.0
SCANNED_PACKETS = 1000
# A longer duration in a header is a damaged one.
MAX_SECONDS = 1e6
# A pixel whose sides differ by more is a mistake in the file.
MAX_PIXEL_ASPECT = 16
# Players show the alpha of VP8 and VP9, which is a second stream; FFmpeg's own decoders leave it out.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


# FFmpeg's orders of fields by which of them is displayed first.
FIELD_ORDERS = {2: "tff", 3: "bff", 4: "bff", 5: "tff"}


class VideoFile:
    """An open video file: the contents of its header, and its frames.

    Attributes:
        fps: The nominal frames per second: the steady rate, or that of the moving parts where it varies.
        height: The rows of pixels as shown; a display matrix may exchange it with `width`.
        width: The columns of pixels as shown.
        declared: The number of frames that the header declares; 0 if it declares none.
        seconds: The duration that the header declares; 0 if it declares none.
        metadata: The metadata that reelm has stored in the file; empty if there is none.
        first: The time of the first picture in the file, in seconds; 0 until `decode` has yielded it.
    """

    def __init__(self, path: Path, container: "InputContainer", threads: int) -> None:
        self._path, self._container, self._threads = path, container, threads
        self._stream = stream = _shown_stream(path, container)
        context = stream.codec_context
        self._kind = container.format.name
        self._normalizer = FrameNormalizer(_pixel_aspect(stream), self._crop(), _fields(context), threads)
        self.height, self.width = self._normalizer.shown_size(context.height, context.width)
        self.declared = _declared_frames(stream)
        self.seconds = (container.duration or 0) / 1e6
        if stream.duration and stream.time_base:
            self.seconds = float(stream.duration * stream.time_base)
        # Recorders that could not go back to their header leave a placeholder there: every frame takes a byte at least.
        placeholder = self.declared > path.stat().st_size
        if placeholder or self.seconds > MAX_SECONDS:
            self.declared, self.seconds = 0 if placeholder else self.declared, 0.0
        self.fps, self.first = _rate(path, stream), 0.0
        self._damage = Damage(gap=1 / self.fps, cut=is_cut(path, self._kind))
        text = {key.lower(): value for key, value in container.metadata.items()}.get("comment")
        self.metadata, self._info = unpack_metadata(text)

    @property
    def notes(self) -> list[str]:
        """What is missing from the file and what was done to its frames, one line each; complete after `decode`."""
        return self._damage.notes() + self._normalizer.notes

    def decode(self, max_pixels: int) -> Iterator[tuple[float, float, "VideoFrame"]]:
        """Yield every frame that decodes, with the seconds from which and until which a player shows it.

        The first frame begins at 0. A lone picture that is not held for longer than a frame has no duration.

        Args:
            max_pixels: The largest height times width of a frame; the decoder tolerates a little over twice as many.

        Raises:
            ClipError: No frame decodes.
        """
        timeline = Timeline(
            self.fps, by_output=self._kind == "avi", joins=any(name in BROADCAST for name in self._kind.split(","))
        )
        before: tuple[float, VideoFrame] | None = None
        for frame in self._decoded(timeline, max_pixels):
            start = timeline.start_of(frame)
            self.first = timeline.first_packet + timeline.skipped
            self._damage.add(frame, start)
            if before is not None:
                yield before[0], start, before[1]
            before = (start, frame)
        if before is None:
            reason = f" ({self._damage.reason})" if self._damage.reason else ""
            raise ClipError(f"must have at least one frame that decodes, got 0 in {str(self._path)!r}{reason}")
        stop = self._end(timeline)
        if self._damage.frames == 1 and stop <= 1.5 / self.fps:
            stop = before[0]
        yield before[0], stop, before[1]

    def rgb(self, frames: Iterable[tuple[float, float, "VideoFrame"]]) -> Iterator[tuple[float, float, np.ndarray]]:
        """Convert frames of `decode` to upright (H, W, 3) uint8 RGB, without the padding of reelm's own odd sizes.

        Raises:
            ClipError: The colours of a frame are of a kind that is not converted.
        """
        info = self._info
        tagged = (((start, stop), frame) for start, stop, frame in frames)
        try:
            for (start, stop), rgb in self._normalizer.frames(tagged):
                if info is not None and rgb.shape[:2] == (info.height + info.height % 2, info.width + info.width % 2):
                    rgb = rgb[: info.height, : info.width]
                yield start, stop, rgb
        except UnsupportedColoursError as error:
            raise ClipError(f"{error} in {str(self._path)!r}") from error

    def _decoded(self, timeline: Timeline, max_pixels: int) -> "Iterator[VideoFrame]":
        """Yield what decodes, and count what does not."""
        count = 0
        for frame in self._decode_packets(self._container, max_pixels, self._threads, timeline):
            count += 1
            yield frame
        short = timeline.end < self._declared_end(timeline) or count < self.declared
        if self._threads != 1 and (self._damage.any or short):
            # Decoding with threads loses the frames that are still on their way when the last packets do not decode, at
            # times without an error.
            with open_container(self._path) as container:
                frames = self._decode_packets(container, max_pixels, threads=1)
                yield from itertools.islice(frames, count, None)

    def _decode_packets(
        self, container: "InputContainer", max_pixels: int, threads: int, timeline: Timeline | None = None
    ) -> "Iterator[VideoFrame]":
        """Yield what decodes; with a timeline, this is the first pass, which takes note of what does not."""
        import av

        lost = Damage(self._damage.gap) if timeline is None else self._damage
        stream = next(each for each in container.streams.video if each.index == self._stream.index)
        context = _decoder(stream)
        context.thread_type, context.thread_count = "AUTO", threads
        # A frame may be larger than the header says, and the decoder aligns sizes, so this limit is a loose one.
        context.options = {"max_pixels": str(2 * max_pixels + 2**16)}
        for packet in _packets(container, stream, lost):
            if timeline is not None:
                timeline.add_packet(packet)
            if packet.size == 0 and (packet.pts is not None or packet.dts is not None):
                continue  # repeats the frame before it
            lost.damaged += bool(packet.is_corrupt)
            try:
                yield from context.decode(packet)
            except (av.FFmpegError, UnicodeDecodeError, ValueError) as error:
                lost.undecoded += 1
                lost.reason = str(error)

    def _crop(self) -> Crop:
        context = self._stream.codec_context
        number = [stream.index for stream in self._container.streams.video].index(self._stream.index)
        crop = Crop()
        if self._kind.startswith("matroska"):
            crops = matroska.read_crops(self._path)
            crop = crops[number] if number < len(crops) else crop
        elif "mp4" in self._kind.split(","):
            apertures = read_clean_apertures(self._path)
            aperture = apertures[number] if number < len(apertures) else None
            crop = crop if aperture is None else aperture.crop(context.height, context.width)
        fits = crop.left + crop.right < context.width and crop.top + crop.bottom < context.height
        return crop if fits else Crop()

    def _end(self, timeline: Timeline) -> float:
        """Return when the last picture ends, and take note of what the header declares beyond that."""
        lost = self._damage
        lost.end, lost.joined, lost.start = timeline.end, timeline.joined, timeline.skipped
        if self._interleaved():
            lost.unread = 1 - lost.read / self._path.stat().st_size
        declared_end = self._declared_end(timeline)
        # A file that is whole and lasts longer than its pictures holds the last one, as a player does.
        if self._kind.startswith("matroska") and not lost.any and declared_end > timeline.end:
            lost.add_pause(declared_end)
            return declared_end
        # The frames that an AVI declares are those of its clock, with repeats.
        lost.declared, lost.declared_end = 0 if self._kind == "avi" else self.declared, declared_end
        return timeline.end

    def _interleaved(self) -> bool:
        """Return whether the file ends with packets, those of all streams in the order of their times."""
        fragmented = "mp4" in self._kind and not self.declared
        return self._kind in ("mpegts", "flv", "ogg", "nut") or self._kind.startswith("matroska") or fragmented

    def _declared_end(self, timeline: Timeline) -> float:
        """Return the seconds after the first picture at which the header lets the video stream end; 0 for unknown."""
        stream, start = self._stream, _start_of(self._stream) + timeline.skipped
        # Matroska declares the end of each stream in a tag.
        tag = {key.upper(): value for key, value in stream.metadata.items()}.get("DURATION", "")
        matched = re.fullmatch(r"(\d{1,4}):(\d\d):(\d\d\.\d+)", tag)
        if matched is not None:
            hours, minutes, rest = matched.groups()
            return max(0.0, int(hours) * 3600 + int(minutes) * 60 + float(rest) - start)
        alone = len(self._container.streams) == 1
        # ASF and FLV declare the end of the longest stream; ASF and AVI count from 0, where a stream may begin late.
        if self._kind == "flv":
            return max(0.0, (self._container.duration or 0) / 1e6 - start) if alone else 0.0
        measured = self._kind in ("avi", "ogg", *BROADCAST) or (self._kind == "asf" and alone)
        if self._damage.joined or not (measured and self.seconds and stream.duration and stream.time_base):
            return 0.0
        late = timeline.first_packet if self._kind in ("avi", "asf") else 0.0
        return float(stream.duration * stream.time_base) - late - timeline.skipped


@contextlib.contextmanager
def open_video(path: Path, threads: int = 0) -> Iterator[VideoFile]:
    """Open the video file at `path` as a context manager.

    Args:
        path: The file.
        threads: The number of threads that decode and convert; 0 leaves it to FFmpeg.

    Raises:
        ClipError: The file has no video stream or no valid frame rate.
        Exception: Any exception that FFmpeg raises on a broken header.
    """
    with open_container(path) as container:
        yield VideoFile(path, container, threads)


def open_container(path: Path) -> "InputContainer":
    """Open a video file in one of the containers that are read."""
    import av

    # Without "file:", FFmpeg would read the part of a name before a colon as a protocol.
    options = {"format_whitelist": CONTAINERS}
    return av.open(f"file:{path}", options=options, metadata_errors="replace")


def _shown_stream(path: Path, container: "InputContainer") -> "VideoStream":
    """Return the video stream that a player shows: of those marked as default, else of all, the largest, then first."""
    from av.stream import Disposition

    hidden = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.dependent
    streams = [stream for stream in container.streams.video if stream.codec_context and not stream.disposition & hidden]
    if not streams:
        raise ClipError(f"must hold a video stream, got {str(path)!r}")
    streams = [stream for stream in streams if stream.disposition & Disposition.default] or streams
    return max(streams, key=lambda stream: stream.codec_context.height * stream.codec_context.width)


def _packets(container: "InputContainer", stream: "VideoStream", lost: Damage) -> "Iterator[Packet]":
    """Yield the packets of a stream; where the file cannot be read any further, an empty one that ends decoding."""
    import av

    try:
        for packet in container.demux():
            lost.read = max(lost.read, (packet.pos or 0) + packet.size)
            if packet.stream.index == stream.index:
                yield packet
            elif packet.is_corrupt:  # also one that a damaged length lets reach to the end of the file
                lost.cut = True
    except (av.FFmpegError, UnicodeDecodeError, IndexError) as error:
        lost.unreadable, lost.reason = True, str(error)
        yield av.Packet()


def _decoder(stream: "VideoStream") -> "CodecContext":
    """Return the decoder of a stream, which reads its transparency where it has any."""
    import av

    context = stream.codec_context
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    name = ALPHA_DECODERS.get(context.name, "")
    return av.CodecContext.create(name, "r") if tags.get("alpha_mode") == "1" and name else context


def _pixel_aspect(stream: "VideoStream") -> Fraction:
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
    return Fraction(aspect) if 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT else Fraction(1)


def _fields(context: "VideoCodecContext") -> str:
    """Return the order of fields where only the container tells it: the decoder of Motion JPEG marks no frames."""
    return FIELD_ORDERS.get(context.field_order, "") if context.name == "mjpeg" else ""


def _rate(path: Path, stream: "VideoStream") -> float:
    """Return the nominal rate: the header's where its two rates agree and can be true, else one from the times.

    Where there are no times, as in a raw stream, it is the rate in the coded pictures themselves.
    """
    declared = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    rate = declared[0] if declared else 0.0
    if len(declared) < 2 or max(declared) > min(1.01 * min(declared), MAX_TRUSTED_FPS):
        coded = float(stream.codec_context.framerate or 0)
        rate = nominal_rate(_packet_times(path, stream.index), declared) or coded or rate
    if 0 < rate < MIN_FPS:
        rate = 1.0
    if not 0 < rate <= MAX_FPS:
        raise ClipError(f"must have a frame rate of at most {MAX_FPS:g}, got {rate:g} in {str(path)!r}")
    return rate


def _packet_times(path: Path, index: int) -> list[float]:
    """Return the times of the first packets of a stream in order, in seconds, without decoding them."""
    times: set[float] = set()
    with open_container(path) as container:
        stream = container.streams[index]
        for packet in itertools.islice(container.demux(stream), SCANNED_PACKETS):
            ticks = packet.dts if packet.pts is None else packet.pts
            if ticks is not None and packet.size and not packet.is_discard:
                times.add(float(ticks * packet.time_base))
    return sorted(times)


def _start_of(stream: "VideoStream") -> float:
    return float(stream.start_time * stream.time_base) if stream.start_time and stream.time_base else 0.0


def _declared_frames(stream: "VideoStream") -> int:
    entries = getattr(stream, "index_entries", None)
    # An mp4 that was cut without re-encoding also counts frames that its edit list hides; the index marks those.
    if stream.frames and entries and "mp4" in stream.container.format.name:
        return sum(not entry.is_discard for entry in entries)
    return int(stream.frames)


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

    with av.open(io.BytesIO(data), format="mp4") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # starting threads takes longer than decoding a window
        rate = stream.average_rate or 1
        if start:
            container.seek(round(start / rate / stream.time_base), stream=stream)
        numbered = ((round(frame.pts * stream.time_base * rate), frame) for frame in container.decode(stream))
        window = itertools.islice(((number, frame) for number, frame in numbered if number >= start), count)
        return np.stack([rgb for _, rgb in FrameNormalizer(threads=1).frames(window)])
