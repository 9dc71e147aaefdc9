"""A lane: an engine with the clips of the same settings, and their pixels.

lane = Lane(parts, drawing, capacity=8)
lane.add(drawing)
while lane.waiting():
    lane.step()                              # one pass for all clips; latent frames go to the watchers of the drawings
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Hashable

import torch

from ..core.errors import ReelmError
from ..generation.admission import admit
from ..generation.pixels import PixelDecoder
from ..generation.pretrained import Pretrained
from ..generation.request import pick_decoder
from ..generation.steering import apply_change
from ..sampling.engine import Engine, LatentFrame
from .drawing import Drawing, DrawnFrame

log = logging.getLogger(__name__)


def lane_key(drawing: Drawing) -> Hashable:
    """Return what the clips of a lane have in common: the settings, the decoder, and whether prompts are negated."""
    request = drawing.request
    return request.sampling, drawing.decoder, drawing.block_size, request.negatives, drawing.live


def fitting_capacity(parts: Pretrained, drawing: Drawing, most: int) -> int:
    """Return for how many clips like this one there is memory, at most so many: a power of two of them, or all.

    Raises:
        ReelmError: There is not enough for one; see `admit`.
    """
    capacity, request = most, drawing.request
    while True:
        try:
            # A latent frame is handed over when it is drawn. A clip without a length needs what one with a length does.
            admit(parts, dataclasses.replace(request, plans=request.plans * capacity, batch_size=capacity), whole=False)
            return capacity
        except ReelmError:
            if capacity == 1:
                raise
            capacity = 2 ** ((capacity - 1).bit_length() - 1)


class Lane:
    """Clips that are drawn pass by pass together; one thread uses it.

    Attributes:
        live: Whether somebody looks at its clips.
    """

    def __init__(self, parts: Pretrained, first: Drawing, *, capacity: int) -> None:
        """Make an engine for clips like this one."""
        sampling, negatives = first.request.sampling, first.request.negatives
        # How many positions a pass looks at depends on how many clips there are. The cache is made for the most.
        self._decoders = [
            pick_decoder(parts, first.decoder, first.block_size, sampling, clips) for clips in range(1, capacity + 1)
        ]
        widest = max(self._decoders, key=lambda decoder: getattr(decoder, "block_size", 1))
        model, settings = sampling.chosen(parts.lm, negatives=negatives)
        self._engine = Engine(model, settings, capacity=capacity, decoder=widest, on_step=self._hand_over_tokens)
        self._parts, self._sampling, self._pixels = parts, sampling, PixelDecoder(parts.tokenizer)
        self.live = first.live
        self._drawings: dict[int, Drawing] = {}
        self._complete: dict[int, int] = {}  # the latent frames of each clip that are complete
        self._positions: dict[int, int] = {}  # the position of the next token of each clip
        self._failed: dict[int, Exception] = {}  # what went wrong with the watcher of a clip in this step

    @property
    def drawings(self) -> list[Drawing]:
        """The drawings in the lane."""
        return [*self._drawings.values()]

    @property
    def free(self) -> int:
        """The number of drawings that can be added now."""
        return self._engine.free

    @property
    def passes(self) -> int:
        """The passes of the engine so far."""
        return self._engine.stats.passes

    def waiting(self) -> list[Drawing]:
        """Return the drawings for which a step would do something."""
        return [
            drawing for clip, drawing in self._drawings.items()
            if drawing.cancelled or drawing.target is None or self._complete[clip] < drawing.target
        ]  # fmt: skip

    def add(self, drawing: Drawing) -> None:
        """Add a clip, after its past if it has one."""
        plan, past_tS, size = drawing.request.plans[0], drawing.past_tS, self._engine.layout.frame_size
        known = 0 if past_tS is None else len(past_tS)
        if known and plan.latent_frames is not None and known >= plan.latent_frames:
            end(drawing)
            return
        clip = self._engine.add(plan, past_tS if known else None)
        self._drawings[clip], self._complete[clip], self._positions[clip] = drawing, known, known * size
        if past_tS is not None and known:
            # The decoder depends on the last few latent frames alone.
            for tokens_S in past_tS[-max(1, self._parts.tokenizer.memory) :]:
                self._pixels.decode({clip: self._engine.layout.unpack(tokens_S)["video"]})

    def step(self) -> None:
        """Make one pass for the clips that have something to draw, and hand over what is complete."""
        for clip, drawing in [*self._drawings.items()]:
            self._told(clip, self._steer, clip, drawing)
        for clip, drawing in [*self._drawings.items()]:
            if drawing.cancelled or clip in self._failed:
                self._end(clip)
        if not self._drawings:
            return
        self._engine.decoder, drawn, begun = self._decoders[len(self._drawings) - 1], self.waiting(), time.monotonic()
        for frame in self._engine.step():
            self._hand_over(frame)
        spent = time.monotonic() - begun
        for drawing in drawn:
            drawing.drawn_seconds += spent
        for clip, drawing in [*self._drawings.items()]:
            if clip in self._failed or self._complete[clip] == drawing.request.plans[0].latent_frames:
                self._end(clip)

    def fail(self, error: Exception) -> None:
        """Tell the watchers of all clips of an error, after which the lane is of no use."""
        for drawing in self._drawings.values():
            end(drawing, error)
        self._drawings.clear()

    def _told(self, clip: int, tell: Callable[..., object], *values: object) -> None:
        """Tell the watcher of a clip something. What goes wrong there, such as a full disk, ends this clip alone.

        A `ReelmError` of the watcher is its refusal to have more drawn.
        """
        try:
            tell(*values)
        except ReelmError as error:
            self._failed.setdefault(clip, error)
        except Exception as error:
            log.exception("a watcher failed")
            self._failed.setdefault(clip, error)

    def _steer(self, clip: int, drawing: Drawing) -> None:
        """Change what is to be changed of a clip, and let it be drawn as far as it is allowed to."""
        engine, ends = self._engine, drawing.request.plans[0].latent_frames
        while not drawing.changes.empty():
            # Latent frames that may not be drawn yet are to be changed, too.
            engine.change(clip, dataclasses.replace(engine.plan(clip), latent_frames=ends))
            drawing.watcher.changed(apply_change(engine, clip, drawing.changes.get(), self._sampling))
        target, plan = drawing.target, engine.plan(clip)
        target = None if target is None else max(target, engine.next_frame(clip))
        if plan.latent_frames != target:
            engine.change(clip, dataclasses.replace(plan, latent_frames=target))

    def _hand_over_tokens(self, passes: int, accepted: dict[int, torch.Tensor]) -> None:
        for clip, tokens_n in accepted.items():
            if len(tokens_n):
                tell = self._drawings[clip].watcher.tokens
                self._told(clip, tell, self._positions[clip], tokens_n)
                self._positions[clip] += len(tokens_n)

    def _hand_over(self, frame: LatentFrame) -> None:
        clip, tokens_S = frame.clip, frame.tokens_S.to("cpu", torch.int32)
        pictures = self._pixels.decode({clip: self._engine.layout.unpack(tokens_S.long())["video"]})[clip]
        self._complete[clip] = frame.number + 1
        self._told(clip, self._drawings[clip].hand_over, DrawnFrame(frame.number, tokens_S, pictures))

    def _end(self, clip: int) -> None:
        """Remove a clip, and tell its watcher."""
        drawing = self._drawings.pop(clip)
        del self._complete[clip], self._positions[clip]
        self._pixels.forget(clip)
        self._engine.remove(clip)
        end(drawing, self._failed.pop(clip, None))


def end(drawing: Drawing, error: Exception | None = None) -> None:
    """Tell the watcher of a clip that nothing more comes."""
    try:
        drawing.watcher.ended(error)
    except Exception:
        log.exception("a watcher failed")
