"""A clip that a scheduler draws, and whoever watches it.

drawing = Drawing(request, watcher, fps=parts.config.fps)
scheduler.add(drawing)
drawing.allow(16)                           # no more than 16 latent frames for now, of a clip without an end
drawing.change(read_change(parts, sampling, seed, prompt="a red ball rolls"))
drawing.cancel()
"""

import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ..core.errors import ReelmError
from ..generation.request import Request
from ..generation.steering import Change
from ..sampling.plan import ClipPlan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DrawnFrame:
    """A latent frame that is drawn and decoded.

    Attributes:
        number: The index of the latent frame in its clip.
        tokens_S: Its tokens in writing order, int32, on the CPU.
        pictures_nHW3: Its pictures, uint8.
    """

    number: int
    tokens_S: torch.Tensor
    pictures_nHW3: np.ndarray


class Watcher(Protocol):
    """Whoever gets the latent frames of a clip. The threads that draw and paint call it, and it must not wait."""

    def tokens(self, first: int, tokens_n: torch.Tensor) -> None:
        """Take the tokens (n,) that a pass has accepted, of which the first has this position in the clip."""

    def frame(self, frame: DrawnFrame) -> None:
        """Take the next latent frame."""

    def changed(self, plan: ClipPlan) -> None:
        """Take note of the plan of a clip that was changed."""

    def ended(self, error: Exception | None) -> None:
        """Take note that nothing more comes: at the end, after `cancel`, or because of an error."""


class Drawing:
    """A clip that is drawn, or waits to be. Any thread may call its methods.

    Attributes:
        request: The request, which has one clip.
        watcher: Whoever gets its latent frames.
        past_tS: The latent frames that it has already, in writing order, or None.
        fps: The pictures per second at which it is shown.
        live: Whether somebody looks at it, so that it comes before clips at which nobody looks.
        decoder, block_size: The decoder by name, as in `generate`.
        cancelled: Whether nothing more is to be drawn.
        failed: What went wrong with it, or with its watcher, which ends it; None if nothing did.
        drawn_seconds: The time of the passes in which it was.
        changes: What is to be changed at its first latent frame that is not begun.
    """

    def __init__(
        self, request: Request, watcher: Watcher, *, fps: float, live: bool = True, decoder: str = "auto",
        block_size: int | None = None, past_tS: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        self.request, self.watcher, self.fps, self.live, self.past_tS = request, watcher, fps, live, past_tS
        self.decoder, self.block_size = decoder, block_size
        self.cancelled, self.changes, self.drawn_seconds = False, queue.SimpleQueue[Change](), 0.0
        self.failed: Exception | None = None
        self._shown_until = 0.0
        self._allowed: int | None = None

    def allow(self, latent_frames: int) -> None:
        """Let so many latent frames of the clip be drawn, those of the past included, and no more for now."""
        self._allowed = latent_frames

    def change(self, change: Change) -> None:
        """Change the clip from the first latent frame on that is not begun."""
        self.changes.put(change)

    def cancel(self) -> None:
        """Let nothing more be drawn than the pass that is computed now."""
        self.cancelled = True

    @property
    def over(self) -> bool:
        """Whether nothing more is to be drawn, because it is cancelled or has failed."""
        return self.cancelled or self.failed is not None

    @property
    def target(self) -> int | None:
        """The number of latent frames to draw for now; None for no end."""
        ends = [end for end in (self.request.plans[0].latent_frames, self._allowed) if end is not None]
        return min(ends, default=None)

    def lead(self, now: float) -> float:
        """Return for how many seconds after `now` (time.monotonic) the pictures last that were handed over."""
        return self._shown_until - now

    def attempt(self, action: Callable[..., object], *values: object) -> None:
        """Do something for this clip. What goes wrong, such as a full disk of its watcher, ends it alone.

        A `ReelmError` of the watcher is its refusal to have more drawn.
        """
        try:
            action(*values)
        except Exception as error:
            if not isinstance(error, ReelmError):
                log.exception("a clip failed")
            self.failed = self.failed or error

    def hand_over(self, frame: DrawnFrame) -> None:
        """Give the watcher a latent frame; pictures that are late are shown at once."""
        self._shown_until = max(self._shown_until, time.monotonic()) + len(frame.pictures_nHW3) / self.fps
        self.watcher.frame(frame)


def end(drawing: Drawing, error: Exception | None = None) -> None:
    """Tell the watcher of a clip that nothing more comes, because of this error or of what has failed, if anything."""
    try:
        drawing.watcher.ended(drawing.failed or error)
    except Exception:
        log.exception("a watcher failed")
