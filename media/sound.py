"""The sound of a video file: its packets are copied into another file, and never decoded.

sound = find_sound(Path("holiday.mp4"))             # None where there is no sound
sound = sound.until(4.0)                            # the first four seconds
sound.check(".mp4")                                 # a ClipError where an mp4 cannot hold it
write_parts("longer.mp4", parts, shape, 25, sound=sound)    # writer.py
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import ClipError
from ..core.progress import note
from .clip import DEFAULT_LIMITS
from .frame_decoder import BROADCAST, open_container, open_video
from .reader import is_video, reading
from .timeline import MAX_JUMP

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer, OutputContainer

# The video containers that reelm writes: what libavformat calls them.
HOLDERS = {".mp4": "mp4", ".mkv": "matroska"}
# The suffix of sessions, which are continued like clips, and have neither pictures nor sound.
SESSION = ".safetensors"
# Seconds before the first picture from which packets are kept: decoders of Opus need 80 ms to warm up, AAC less.
WARM_UP = 0.1
# Seconds by which the times of packets may go back without being those of another recording.
DISORDER = 1.0


@dataclass(frozen=True)
class Sound:
    """The sound that a player plays with a video file.

    Attributes:
        path: The file.
        codec: The name of the codec, such as "aac".
        index: The number of the stream in the file.
        seconds: The end after the first picture; infinity for all.
        streams: The number of sounds in the file; of several, such as languages, one is played.
    """

    path: Path
    codec: str
    index: int
    seconds: float = math.inf
    streams: int = 1

    def until(self, seconds: float) -> "Sound":
        """Return the sound up to so many seconds after the first picture, to a whole packet."""
        return dataclasses.replace(self, seconds=seconds)

    def check(self, suffix: str, argument: str = "output") -> None:
        """Check that a file of this format can hold the sound, by writing all of its packets to nowhere.

        Args:
            suffix: The format, such as ".mp4".
            argument: The name of the output in error messages.

        Raises:
            ClipError: It cannot; the message names the codec, and a format that can.
        """
        failure = self._failure(suffix)
        if failure is None:
            return
        others = [other for other in HOLDERS if other != suffix and self._failure(other) is None]
        advice = (
            f"choose {' or '.join(others)}" if others else "reelm writes no format that can: convert it to AAC first"
        )
        rule = f"must be of a format that can hold sound of the codec {self.codec!r}; {advice}"
        raise ClipError(f"{argument}: {rule}, got {suffix or 'a folder of PNGs'!r} for {str(self.path)!r}{failure}")

    def _failure(self, suffix: str) -> str | None:
        import av

        if suffix not in HOLDERS:
            return ""
        try:
            with av.open(_Nowhere(), "w", format=HOLDERS[suffix]) as target, self.copy_into(target) as packets:
                for _, packet in packets:
                    target.mux(packet)
        # The muxers raise many types of exceptions on what they cannot hold.
        except Exception as error:
            return f" ({error})"
        return None

    @contextlib.contextmanager
    def copy_into(self, target: "OutputContainer") -> "Iterator[Iterator[tuple[float, Packet]]]":
        """Add the sound's stream to a file and yield its packets, each with its time; they are still to be muxed."""
        with open_video(self.path) as video:
            next(iter(video.decode(DEFAULT_LIMITS.max_pixels)))
        with open_container(self.path) as source:
            stream = target.add_stream_from_template(source.streams[self.index])

            def packets() -> "Iterator[tuple[float, Packet]]":
                for start, packet in self._packets(source, video.first):
                    packet.stream = stream
                    yield start, packet

            yield packets()

    def _packets(self, source: "InputContainer", first: float) -> "Iterator[tuple[float, Packet]]":
        """Yield the packets from the first picture on, whose times become those after the first picture, ascending.

        Where a recording is joined to another one, whose clock starts again, the packets go on without a gap.

        Args:
            source: The open file.
            first: The time in the file of the first picture, in seconds.
        """
        import av

        joins = any(name in BROADCAST for name in source.format.name.split(","))
        offset, end, last = first, -math.inf, -math.inf
        with contextlib.suppress(av.FFmpegError, UnicodeDecodeError, IndexError):  # the file ends here, as its pictures
            for packet in source.demux(source.streams[self.index]):
                if not packet.size or packet.time_base is None:
                    continue
                ticks = packet.dts if packet.pts is None else packet.pts
                tick = float(packet.time_base)
                time = end + offset if ticks is None else ticks * tick
                jump = time - offset - end  # infinite for the first packet
                if math.isfinite(jump) and (jump < -DISORDER or (joins and jump > MAX_JUMP)):
                    offset = time - end
                start = time - offset
                packet.pts = packet.dts = round(start / tick) if math.isfinite(start) else None
                duration = (packet.duration or 0) * tick
                if packet.pts is None or packet.pts * tick <= last or start + duration < -WARM_UP:
                    continue
                if start >= self.seconds - tick / 2:
                    return
                last, end = packet.pts * tick, start + duration
                yield start, packet


def find_sound(path: Path, argument: str = "clip") -> Sound | None:
    """Return the sound of the clip at `path`; None where it is silent, as every image, folder and session is.

    Args:
        path: The file or folder.
        argument: The name of the clip in error messages.

    Raises:
        ClipError: It is no clip that can be read.
    """
    with reading(path, argument):
        if path.suffix == SESSION or not is_video(path):
            return None
        with open_container(path) as container:
            best = container.streams.best("audio")
            if best is None:
                return None
            return Sound(
                path, best.codec_context.codec.canonical_name, best.index, streams=len(container.streams.audio)
            )


def note_sound(clip: object, argument: str = "clip") -> None:
    """Say that the sound of a clip is not in what continues it, if the clip is a file that has any.

    Args:
        clip: What is continued: the path of a file or folder, or anything else, which has no sound.
        argument: Its name in error messages.
    """
    if isinstance(clip, str | os.PathLike) and find_sound(Path(clip), argument) is not None:
        note(f"{Path(clip).name}: its sound is not in the output; --keep-source (KeptSource in Python) keeps it")


class _Nowhere:
    """A file for a muxer that keeps nothing."""

    def __init__(self) -> None:
        self._position = self._size = 0

    def write(self, data: bytes) -> int:
        self._position += len(data)
        self._size = max(self._size, self._position)
        return len(data)

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position
