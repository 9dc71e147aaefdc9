"""Play by the clock: pictures come when they are due, and keys count from the moment at which they are held.

report = play_by_clock(session, Script(read_written("d-30,none-15"), session), show, seconds=60)
report.frames_per_second, report.key_to_picture_ms["p50"]

The clock is the player's: where the next pictures are not there when they are due, it waits for them. So a script gives
the same clip on a machine of any speed. A delay of up to one picture is made up for, as soon as pictures are there in
time again; longer ones are not, since a game that runs too fast for a while cannot be played.
"""

import bisect
import hashlib
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..core.controls import ControlTrack
from ..core.errors import require
from .play import PlaySession

POLL = 0.002  # seconds between two looks at the keys


class Player(Protocol):
    """Whoever holds the keys."""

    def held(self, seconds: float) -> frozenset[str]:
        """Return the keys that are held at this time of the player's clock."""

    def next_keys(self, seconds: float, pictures: int) -> ControlTrack:
        """Return what is held before each of the next pictures, the first of which is due at this time."""


class Script:
    """A player that holds what is written, and nothing after its end."""

    def __init__(self, track: ControlTrack, session: PlaySession) -> None:
        """Check that the model has the keys; see `PlaySession.check`."""
        session.check(track)
        self._track, self._fps = track, session.fps

    def held(self, seconds: float) -> frozenset[str]:
        """Return the keys that are held at this time."""
        return self.next_keys(seconds, 1).keys[0]

    def next_keys(self, seconds: float, pictures: int) -> ControlTrack:
        """Return what is held from the last picture before this time on."""
        first = max(0, math.ceil(seconds * self._fps - 1e-6) - 1)
        part = self._track[first : first + pictures]
        missing = pictures - len(part)
        return ControlTrack(
            part.keys + (frozenset(),) * missing, {name: turns + (0.0,) * missing for name, turns in part.axes.items()}
        )


class RandomPlayer:
    """A player that holds sets of none, one or two keys, each for a random time, and changes them at any moment."""

    def __init__(self, keys: tuple[str, ...], *, seed: int, mean_seconds: float = 0.5) -> None:
        """Begin to hold keys.

        Args:
            keys: The names of the keys.
            seed: The seed.
            mean_seconds: The mean time for which a set is held, which is exponential.
        """
        self._keys, self._mean, self._random = keys, mean_seconds, np.random.default_rng(seed)
        self._ends: list[float] = []  # when each set is let go
        self._sets: list[frozenset[str]] = []

    def held(self, seconds: float) -> frozenset[str]:
        """Return the keys that are held at this time."""
        while not self._ends or self._ends[-1] <= seconds:
            count = min(len(self._keys), int(self._random.integers(0, 3)))
            chosen = self._random.choice(len(self._keys), size=count, replace=False)
            self._sets.append(frozenset(self._keys[index] for index in chosen))
            self._ends.append((self._ends[-1] if self._ends else 0.0) + self._random.exponential(self._mean))
        return self._sets[bisect.bisect_right(self._ends, seconds)]

    def next_keys(self, seconds: float, pictures: int) -> ControlTrack:
        """Return the keys that are held at this time, before each of the next pictures."""
        return ControlTrack((self.held(seconds),) * pictures)


def random_track(keys: tuple[str, ...], pictures: int, *, fps: float, seed: int) -> ControlTrack:
    """Return what a `RandomPlayer` holds at the beginning of each picture.

    Args:
        keys: The names of the keys.
        pictures: The number of pictures.
        fps: The pictures per second.
        seed: The seed.
    """
    player = RandomPlayer(keys, seed=seed)
    return ControlTrack(tuple(player.held(picture / fps) for picture in range(pictures)))


@dataclass(frozen=True)
class PlayReport:
    """How a play went.

    Attributes:
        pictures: The number of pictures that were shown.
        seconds: The time that it took.
        frames_per_second: The pictures that the player saw in a second.
        key_to_picture_ms: From a change of the held keys to the first picture that was drawn under them, in
            milliseconds: {"p50": …, "p95": …}; None where no key changed.
        ready_before_due: The share of steps whose pictures were drawn when they were due, or where a delay was made up
            for, before the last picture had had its whole time.
        dropped: The latent frames that were drawn, or begun, under keys that were not held then.
        tokens_per_pass: The mean number of tokens that a pass of the model accepted.
        tokens_sha256: A hash of the video tokens.
    """

    pictures: int
    seconds: float
    frames_per_second: float
    key_to_picture_ms: dict[str, float] | None
    ready_before_due: float
    dropped: int
    tokens_per_pass: float
    tokens_sha256: str


def play_by_clock(
    session: PlaySession,
    player: Player,
    show: Callable[[np.ndarray], object],
    *,
    seconds: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], object] = time.sleep,
) -> PlayReport:
    """Show pictures at the rate of the session until the time is over or `stop` says so.

    Args:
        session: The session.
        player: Whoever holds the keys.
        show: A function that is called with each picture (H, W, 3) uint8 when it is due.
        seconds: The time of the player's clock to play for; None for no end.
        stop: A function that is asked at each picture.
        clock, wait: What gives the time in seconds, and what waits for so many.
    """
    require(seconds is None or 0 < seconds < math.inf, "seconds", "must be finite and above 0", seconds)
    last = None if seconds is None else max(1, round(seconds * session.fps))
    watch, fps, shown, steps, ready, delays = _Watch(session, player), session.fps, 0, 0, 0, list[float]()
    begun = due = shown_at = clock()
    pictures = session.pictures
    while True:
        for picture in pictures:
            watch.until(due, shown / fps, clock, wait)
            show(picture)
            shown_at = clock()
            delays += watch.seen(shown_at)
            shown, due = shown + 1, due + 1 / fps
            if stop() or shown == last:
                watch.until(due, shown / fps, clock, wait)  # the last picture has its time too
                return _report(session, shown, clock() - begun, ready / max(1, steps), delays)
        watch.until(due, shown / fps, clock, wait)
        track = player.next_keys(shown / fps, session.step_pictures)
        watch.look(track.keys[0], clock())
        in_time, in_full = session.ready(track), shown_at + 1 / fps
        pictures = session.step(track)
        # Where a delay is made up for, they are due earlier than the last picture has had its time.
        ready, steps = ready + (in_time or (due < in_full - POLL and clock() <= in_full)), steps + 1
        watch.drawn = track.keys[0]
        due = max(due, clock() - 1 / fps)


class _Watch:
    """Looks at the keys, tells the session of changes, and measures how long they take to show.

    Attributes:
        drawn: The keys under which the pictures were drawn that are shown now.
    """

    def __init__(self, session: PlaySession, player: Player) -> None:
        self._session, self._player = session, player
        self._held = self.drawn = player.held(0.0)
        self._changed: float | None = None  # when the keys changed to those that no picture shows yet

    def until(self, due: float, seconds: float, clock: Callable[[], float], wait: Callable[[float], object]) -> None:
        """Look at the keys until it is `due`, which is at so many seconds of the player's clock."""
        while (now := clock()) < due:
            if self.look(self._player.held(max(0.0, seconds - (due - now))), now):
                self._session.expect(self._held)
            wait(min(POLL, max(0.0, due - now)))

    def look(self, held: frozenset[str], now: float) -> bool:
        """Note what is held now, and return whether that is a change."""
        if held == self._held:
            return False
        # Keys that are as the pictures shown now were drawn under have nothing to show.
        self._held, self._changed = held, None if held == self.drawn else now
        return True

    def seen(self, now: float) -> list[float]:
        """Return how long ago the keys changed, if a picture shows them now for the first time."""
        if self._changed is None or self.drawn != self._held:
            return []
        delay, self._changed = now - self._changed, None
        return [delay]


def _report(session: PlaySession, shown: int, took: float, ready: float, delays: list[float]) -> PlayReport:
    tokens = session.session.tokens_thw.numpy().astype("<i8")
    shares = None if not delays else {
        "p50": 1e3 * statistics.median(delays), "p95": 1e3 * float(np.quantile(delays, 0.95))
    }  # fmt: skip
    digest = hashlib.sha256(tokens.tobytes()).hexdigest()
    passes = session.stats["tokens_per_pass"]
    return PlayReport(shown, took, shown / took, shares, ready, session.dropped, passes, digest)
