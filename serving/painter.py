"""The painter: decodes the latent frames of clips into pictures and hands them over, while the next ones are drawn.

painter = Painter(codec, layout, modes, wake)
painter.paint(drawing, number, tokens_S)    # in order, in a thread of its own where cores are spare
painter.end(drawing)                        # after all that was to be painted before
painter.close()
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager

import torch

from ..core.device import can_overlap
from ..core.layout import FrameLayout
from ..core.protocols import Codec
from ..generation.pixels import PixelDecoder
from .drawing import Drawing, DrawnFrame, end


class Painter:
    """Decodes clips for their watchers; one thread uses it."""

    def __init__(
        self, codec: Codec, layout: FrameLayout, modes: Callable[[], AbstractContextManager[object]],
        wake: Callable[[], object],
    ) -> None:  # fmt: skip
        """Start a thread where there are cores for one.

        Args:
            codec: What decodes the tokens.
            layout: The order of the tokens of a latent frame.
            modes: Makes the context to compute in.
            wake: Is called when a watcher wants no more, or has failed.
        """
        self._pixels, self._layout, self._modes, self._wake = PixelDecoder(codec), layout, modes, wake
        self._memory = max(1, codec.memory)
        self._thread = ThreadPoolExecutor(1, "painter") if can_overlap(codec.device) else None
        self._last: Future[None] | None = None

    def begin(self, drawing: Drawing, past_tS: torch.Tensor) -> None:
        """Begin with a clip after its past, of which the decoder depends on the last few latent frames alone."""
        self._do(self._attempt, self._begin, drawing, past_tS[-self._memory :])

    def paint(self, drawing: Drawing, number: int, tokens_S: torch.Tensor) -> None:
        """Decode the next latent frame of a clip, and hand it over unless nobody wants it any more."""
        self._do(self._attempt, self._paint, drawing, number, tokens_S)

    def end(self, drawing: Drawing) -> None:
        """Tell the watcher of a clip that nothing more comes."""
        self._do(self._end, drawing)

    def catch_up(self) -> None:
        """Wait until all is painted, before more is given: so drawing is no further ahead than by one latent frame."""
        if self._last is not None:
            self._last.result()
            self._last = None

    def close(self) -> None:
        """Paint what is left of clips that are not cancelled, and end the thread."""
        if self._thread is not None:
            self._thread.shutdown()

    def _do(self, work: Callable[..., None], *values: object) -> None:
        if self._thread is None:
            work(*values)
        else:
            self._last = self._thread.submit(work, *values)

    def _attempt(self, action: Callable[..., object], drawing: Drawing, *values: object) -> None:
        drawing.attempt(self._act, action, drawing, *values)
        if drawing.over:
            self._wake()

    def _act(self, action: Callable[..., object], *values: object) -> None:
        with self._modes():
            action(*values)

    def _begin(self, drawing: Drawing, past_tS: torch.Tensor) -> None:
        for tokens_S in past_tS:
            self._pixels.decode({drawing: self._layout.unpack(tokens_S)["video"]})

    def _paint(self, drawing: Drawing, number: int, tokens_S: torch.Tensor) -> None:
        if not drawing.over:
            pictures = self._pixels.decode({drawing: self._layout.unpack(tokens_S.long())["video"]})[drawing]
            drawing.hand_over(DrawnFrame(number, tokens_S, pictures))

    def _end(self, drawing: Drawing) -> None:
        self._pixels.forget(drawing)
        end(drawing)
