"""The scheduler: one thread draws the clips of all viewers and jobs of a model, those that are watched first.

    scheduler = Scheduler(parts, capacity=8)
    scheduler.add(Drawing(request, watcher, fps=parts.config.fps))        # from any thread
    scheduler.close()

Clips of the same settings are drawn in passes together (lane.py), and come and go at any latent frame. A lane is made
when there is memory for it: until then, its clips wait for those of other lanes. A watched clip
has a deadline: its next picture is due when the last one has been shown. Lanes with a clip that is less than `AHEAD`
seconds before its deadline take turns; while there is none, or they wait for their viewers, lanes of clips that nobody
watches do.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable

from ..core.device import thread_modes
from ..core.errors import ReelmError, require
from ..generation.pretrained import Pretrained
from .drawing import Drawing, end
from .lane import Lane, fitting_capacity, lane_key
from .painter import Painter

AHEAD = 1.0  # seconds
MOST_LANES = 8  # of watched clips, and of others: engines that are kept, each with a cache of its own
PAUSE = 0.002  # seconds between two looks at guests
RETRY_SECONDS = 0.1  # between two looks at the memory, where it was short
log = logging.getLogger(__name__)


class Scheduler:
    """Draws clips in a thread of its own.

    Attributes:
        capacity: The clips of a lane that are drawn at a time.
        guests: Functions that say whether somebody else computes for a viewer now, such as a play: no unwatched clip is
            drawn meanwhile.
        passes: The passes of all engines so far.
    """

    def __init__(self, parts: Pretrained, *, capacity: int = 8) -> None:
        """Start the thread."""
        require(capacity >= 1, "capacity", "must be at least 1", capacity)
        self.capacity, self.guests, self.passes = capacity, set[Callable[[], bool]](), 0
        self._parts, self._modes = parts, thread_modes(parts.lm.device)
        self._wake, self._news, self._closing = threading.Condition(), False, False
        self._painter = Painter(parts.tokenizer, parts.lm.layout, self._modes, self.wake)
        self._arrivals: list[Drawing] = []
        self._queue: list[Drawing] = []  # of the thread alone, like the lanes
        self._lanes: dict[Hashable, Lane] = {}  # the one whose turn comes next is the first
        self._short_until = 0.0  # until when no lane is made, since there was no memory for one
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def add(self, drawing: Drawing) -> None:
        """Let a clip be drawn; any thread may call this."""
        with self._wake:
            require(not self._closing, "scheduler", "must not be closed", "a clip")
            self._arrivals.append(drawing)
        self.wake()

    def wake(self) -> None:
        """Look at the drawings again, of which one was changed, cancelled or allowed to go on."""
        with self._wake:
            self._news = True
            self._wake.notify()

    def close(self) -> None:
        """End with the pass that is computed now; clips that are not complete end without an error."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    # What the thread does.

    def _run(self) -> None:
        while not self._closing:
            self._admit()
            key, held_back = self._next()
            if key is not None:
                self._step(key)
                continue
            with self._wake:
                if not (self._news or self._closing):
                    short = time.monotonic() < self._short_until
                    self._wake.wait(PAUSE if held_back else RETRY_SECONDS if short else None)
                self._news = False
        for key, lane in [*self._lanes.items()]:
            for drawing in lane.drawings:
                drawing.cancel()
            self._step(key)
        self._painter.close()
        for drawing in self._queue + self._arrivals:
            end(drawing)

    def _admit(self) -> None:
        """Move clips into lanes that have room, watched ones first.

        While a watched one waits for memory, no other one begins, so that lanes become idle and are let go.
        """
        with self._wake:
            self._queue += self._arrivals
            self._arrivals.clear()
        waiting: list[Drawing] = []
        for drawing in sorted(self._queue, key=lambda drawing: not drawing.live):
            if drawing.cancelled:
                end(drawing)
                continue
            if not drawing.live and any(other.live for other in waiting) and time.monotonic() < self._short_until:
                waiting.append(drawing)
                continue
            try:
                with self._modes():
                    added = self._add(drawing)
            except Exception as error:  # of this clip alone: memory for its lane, or its past
                log.exception("a clip could not begin")
                end(drawing, error)
                continue
            if not added:
                waiting.append(drawing)
        self._queue = waiting

    def _add(self, drawing: Drawing) -> bool:
        """Add a clip to a lane with room, if there is one or can be one, and return whether there is."""
        key = lane_key(drawing)
        lane = self._lanes.get(key)
        if lane is not None and not lane.drawings and lane.free < self.capacity:
            del self._lanes[key]  # there may be memory for a larger one now
        if key not in self._lanes:
            peers = [other for other, lane in self._lanes.items() if lane.live == drawing.live]
            idle = [other for other in peers if not self._lanes[other].drawings]
            if len(peers) >= MOST_LANES and not idle:
                return False
            if len(peers) >= MOST_LANES:
                del self._lanes[idle[0]]
            capacity = self._capacity(drawing)
            if not capacity:
                return False
            self._lanes[key] = Lane(self._parts, drawing, self._painter, capacity=capacity)
        if not self._lanes[key].free:
            return False
        self._lanes[key].add(drawing)
        return True

    def _capacity(self, drawing: Drawing) -> int:
        """Return for how many clips like this one there is memory; 0 where it has to wait for other lanes.

        Raises:
            ReelmError: There is too little memory even without other lanes and guests.
        """
        while time.monotonic() >= self._short_until:
            try:
                return fitting_capacity(self._parts, drawing, self.capacity)
            except ReelmError:
                idle = [key for key, lane in self._lanes.items() if not lane.drawings]
                if not (self._lanes or self.guests):
                    raise
                if idle:
                    del self._lanes[idle[0]]
                else:
                    self._short_until = time.monotonic() + RETRY_SECONDS
        return 0

    def _next(self) -> tuple[Hashable | None, bool]:
        """Return the lane whose pass comes next, if there is one, and whether one is held back for a guest."""
        now, near, far, others = time.monotonic(), list[Hashable](), list[Hashable](), list[Hashable]()
        for key, lane in self._lanes.items():
            leads = [drawing.lead(now) for drawing in lane.waiting()]
            if leads and lane.live:
                (near if min(leads) < AHEAD else far).append(key)
            elif leads:
                others.append(key)
        held_back = bool(others) and any(guest() for guest in [*self.guests])
        ready = near or ([] if held_back else others) or far
        return (ready[0] if ready else None), held_back

    def _step(self, key: Hashable) -> None:
        """Make a pass of a lane, whose turn comes after those of the others then."""
        lane = self._lanes[key] = self._lanes.pop(key)
        before = lane.passes
        try:
            with self._modes():
                lane.step()
        except Exception as error:  # it ends the clips of the lane, and not the thread
            log.exception("a pass failed")
            del self._lanes[key]
            lane.fail(error)
        self.passes += lane.passes - before
