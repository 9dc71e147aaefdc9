"""The timeline of a video stream: when a player shows each decoded picture, and for how long.

    timeline = Timeline(fps=25, by_output=False, joins=True)
    timeline.add_packet(packet)                # each packet before it is decoded
    start = timeline.start_of(frame)           # each decoded frame
    timeline.end                               # when the last picture ends

Times in files are not always what is shown: recordings that were joined start again at zero, an AVI stores no
presentation times, two pictures may claim the same time. The rules here follow what FFmpeg's tools do with them.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from av import Packet, VideoFrame

# Decoders reorder at most 16 pictures (H.264 and HEVC); a time further back is a new start.
MAX_REORDER = 16
# Seconds: a longer jump in a format whose clock may be reset joins two recordings (FFmpeg's dts_delta_threshold).
MAX_JUMP = 10.0
# Seconds: a pause that is longer, in any format, is a damaged time.
MAX_PAUSE = 3600.0
# Seconds of the coarsest clock tick of video containers.
TICK = 1e-3
# Seconds by which rounding to that tick moves a time: half a tick, at both ends of a span.
ROUNDED = 1.01e-3


class Timeline:
    """Assigns ascending times, from 0, to the pictures of one stream.

    Args:
        fps: The nominal rate, for pictures without a time or a duration.
        by_output: Whether packets have times of decoding only: a picture is then shown when the decoder puts it out.
        joins: Whether the format's clock may be reset, so that a long jump is no pause.

    Attributes:
        first_packet: The time of the first packet that is shown, in seconds.
        skipped: The seconds from the first packet of the stream to the first picture that decodes.
        joined: The number of times at which another recording begins.
    """

    def __init__(self, fps: float, *, by_output: bool = False, joins: bool = False) -> None:
        self._end, self.joined = 0.0, 0
        self._gap, self._by_output, self._joins = 1 / fps, by_output, joins
        self._timed, self._repeated_until = False, -math.inf
        self.first_packet, self.skipped = math.inf, 0.0
        self._offset: float | None = None
        self._last = -math.inf

    @property
    def end(self) -> float:
        """When the latest picture ends, in seconds."""
        return max(self._end, self._repeated_until - (self._offset or 0.0))

    def add_packet(self, packet: "Packet") -> None:
        """Take note of a packet that is about to be decoded."""
        ticks = packet.dts if packet.pts is None else packet.pts
        if ticks is None or packet.time_base is None:
            return
        self._timed = True
        time = float(ticks * packet.time_base)
        if packet.size == 0:  # an empty packet (Theora, AVI) repeats the picture before it
            duration = float((packet.duration or 0) * packet.time_base) or self._gap
            self._repeated_until = max(self._repeated_until, time + duration)
        elif self._offset is None and not packet.is_discard:
            self.first_packet = min(self.first_packet, time)

    def start_of(self, frame: "VideoFrame") -> float:
        """Return when a decoded frame, the next one in order, is first shown."""
        time = frame.time
        if self._offset is None and time is not None:
            self.skipped = max(0.0, time - self.first_packet)
        if self._by_output:
            time = None if frame.dts is None or frame.time_base is None else float(frame.dts * frame.time_base)
        # Where no packet has a time, as in a raw stream, PyAV numbers the frames instead.
        if time is None or not self._timed:
            time = self._end + (self._offset or 0.0)
        if self._offset is None:
            self._offset = time
        start = time - self._offset
        back = start < self._last - MAX_REORDER * self._gap
        if back or start > self._end + (MAX_JUMP if self._joins else MAX_PAUSE):
            self._offset, self.joined, start = time - self._end, self.joined + 1, self._end
        elif start <= self._last:
            start = self._last + self._gap
        else:
            # Times that are rounded to milliseconds are those of a steady rate.
            steady = round(start / self._gap) * self._gap
            if abs(steady - start) <= min(ROUNDED, self._gap / 4) and steady > self._last:
                start = steady
        duration = float((frame.duration or 0) * frame.time_base) if frame.time_base else 0.0
        self._last, self._end = start, start + (duration if duration > 0 else self._gap)
        return start


def nominal_rate(times: Sequence[float] | np.ndarray, declared: Sequence[float]) -> float | None:
    """Return the frames per second of the moving parts of a clip, or None where its times do not show one.

    A steady clip has its mean rate. Where pictures are held for long, as in a recording of a screen, most of the time
    says nothing about the motion: the rate is then that of the tenth part with the shortest gaps.

    Args:
        times: The seconds (T,) of the pictures, ascending.
        declared: The rates in the file's header; one within 2% of the result replaces it, as times are rounded.
    """
    times = np.asarray(times, np.float64)
    if len(times) < 2 or times[-1] <= times[0]:
        return None
    span = min(4, max(1, len(times) // 4))  # over several gaps, rounding and jitter count less
    gaps = (times[span:] - times[:-span]) / span
    mean_gap = (times[-1] - times[0]) / (len(times) - 1)
    steady = np.abs(times - times[0] - mean_gap * np.arange(len(times))).max() <= max(mean_gap / 2, TICK)
    gap = mean_gap if steady else float(np.quantile(gaps, 0.1))
    rate = 1 / max(gap, 1e-9)
    return min(
        (each for each in declared if abs(each / rate - 1) < 0.02), key=lambda each: abs(each - rate), default=rate
    )
