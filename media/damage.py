"""What a damaged video file lost: counted while it is decoded, and said in lines with numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av import VideoFrame

# Times differ by up to this part of a frame where nothing is missing: clocks of milliseconds, jitter of cameras.
TOLERANCE = 0.6
# Where pictures are held more often than at one in this many, they are held on purpose: the rate is variable.
RARE = 4
# The largest share of a file that an index and tags may take at its end.
MAX_UNREAD = 0.25


@dataclass
class Damage:
    """Counts of what is missing from one stream.

    Attributes:
        gap: The seconds between pictures at the nominal rate.
        frames: The frames that decoded.
        corrupt: Those of them that the decoder marks as damaged.
        damaged: The packets that the container marks as damaged.
        undecoded: The packets that did not decode.
        unreadable: Whether the container could not be read to its end.
        cut: Whether the file ends elsewhere than its container says.
        read: The bytes of the file up to the end of the last packet of any stream.
        unread: The share of the file after them that should hold packets too.
        reason: The message of the latest error.
        joined: The number of times at which another recording begins.
        declared: The number of frames that the header declares; 0 for none.
        declared_end: The seconds after the first picture at which the header lets the stream end; 0 for unknown.
        start: The seconds before the first picture that the header lets the stream begin.
        end: The seconds at which the last picture ends.
    """

    gap: float
    frames: int = 0
    corrupt: int = 0
    damaged: int = 0
    undecoded: int = 0
    unreadable: bool = False
    cut: bool = False
    read: int = 0
    unread: float = 0.0
    reason: str = ""
    joined: int = 0
    declared: int = 0
    declared_end: float = 0.0
    start: float = 0.0
    end: float = 0.0
    _pauses: int = 0
    _missing: int = 0
    _longest: float = 0.0
    _latest: float = 0.0

    @property
    def any(self) -> bool:
        """Whether damage was met."""
        return bool(self.corrupt or self.damaged or self.undecoded or self.unreadable or self.cut)

    def add(self, frame: "VideoFrame", start: float) -> None:
        """Count a frame that decoded and is shown from `start` on, in seconds."""
        if self.frames:
            self.add_pause(start)
        self.frames, self._latest = self.frames + 1, start
        self.corrupt += bool(frame.is_corrupt)

    def add_pause(self, until: float) -> None:
        """Take note of how long the latest frame is shown, where that is longer than usual."""
        steps = (until - self._latest) / self.gap
        if steps > 1 + TOLERANCE:
            self._pauses += 1
            self._missing += round(steps) - 1
            self._longest = max(self._longest, until - self._latest)

    def notes(self) -> list[str]:
        """Return a line for each kind of loss."""
        return list(self._notes())

    def _notes(self) -> Iterator[str]:
        reason = f" ({self.reason})" if self.reason else ""
        if self.frames < self.declared:
            yield f"{self.declared - self.frames} of {self.declared} declared frames are missing{reason}"
        elif self.end < self.declared_end - TOLERANCE * self.gap:
            yield f"the file ends early: {self.end:.2f} of {self.declared_end:.2f} declared seconds{reason}"
        elif self.undecoded:
            yield f"{self.undecoded} packets do not decode; {self.frames} frames do{reason}"
        elif self.unreadable or self.cut or self.unread > MAX_UNREAD:
            yield f"the file is cut or damaged: {self.frames} frames, {self.end:.2f} s, can be read{reason}"
        if self.start > 1.5 * self.gap:
            yield f"the first {self.start:.2f} s do not decode"
        if self._pauses * RARE <= self.frames and self._missing:
            places = "1 place" if self._pauses == 1 else f"{self._pauses} places"
            yield (
                f"at {places} a frame is shown for up to {self._longest:.2f} s: the rate varies, or about "
                f"{self._missing} frames are missing"
            )
        if self.damaged or self.corrupt:
            yield f"{max(self.damaged, self.corrupt)} of {self.frames} frames are damaged"
        if self.joined:
            yield f"{self.joined + 1} recordings are joined in the file, and shown one after the other"
