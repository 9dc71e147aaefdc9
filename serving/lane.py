"""A lane: an engine with the clips of the same settings.

lane = Lane(parts, drawing, painter, capacity=8)
lane.add(drawing)
while lane.waiting():
    lane.step()                              # one pass for all clips; latent frames go to the painter
"""

import dataclasses
import time
from collections.abc import Hashable

import torch

from ..core.errors import ReelmError
from ..generation.admission import admit
from ..generation.pretrained import Pretrained
from ..generation.request import pick_decoder
from ..generation.steering import apply_change
from ..sampling.engine import Engine, LatentFrame
from .drawing import Drawing, end
from .painter import Painter


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

    def __init__(self, parts: Pretrained, first: Drawing, painter: Painter, *, capacity: int) -> None:
        """Make an engine for clips like this one, whose latent frames go to the painter."""
        sampling, negatives = first.request.sampling, first.request.negatives
        # How many positions a pass looks at depends on how many clips there are. The cache is made for the most.
        self._decoders = [
            pick_decoder(parts, first.decoder, first.block_size, sampling, clips) for clips in range(1, capacity + 1)
        ]
        widest = max(self._decoders, key=lambda decoder: getattr(decoder, "block_size", 1))
        model, settings = sampling.chosen(parts.lm, negatives=negatives)
        self._engine = Engine(model, settings, capacity=capacity, decoder=widest, on_step=self._hand_over_tokens)
        self._sampling, self._painter = sampling, painter
        self.live = first.live
        self._drawings: dict[int, Drawing] = {}
        self._complete: dict[int, int] = {}  # the latent frames of each clip that are complete
        self._positions: dict[int, int] = {}  # the position of the next token of each clip

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
            if drawing.over or drawing.target is None or self._complete[clip] < drawing.target
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
            self._painter.begin(drawing, past_tS)

    def step(self) -> None:
        """Make one pass for the clips that have something to draw, and hand over what is complete."""
        for clip, drawing in [*self._drawings.items()]:
            drawing.attempt(self._steer, clip, drawing)
            if drawing.over:
                self._end(clip)
        if not self._drawings:
            return
        self._engine.decoder, drawn, begun = self._decoders[len(self._drawings) - 1], self.waiting(), time.monotonic()
        frames = self._engine.step()
        spent = time.monotonic() - begun
        for drawing in drawn:
            drawing.drawn_seconds += spent
        if frames:
            self._painter.catch_up()
        for frame in frames:
            self._hand_over(frame)
        for clip, drawing in [*self._drawings.items()]:
            if drawing.over or self._complete[clip] == drawing.request.plans[0].latent_frames:
                self._end(clip)

    def fail(self, error: Exception) -> None:
        """Tell the watchers of all clips of an error, after which the lane is of no use."""
        for drawing in self._drawings.values():
            drawing.failed = drawing.failed or error
            self._painter.end(drawing)
        self._drawings.clear()

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
                drawing = self._drawings[clip]
                drawing.attempt(drawing.watcher.tokens, self._positions[clip], tokens_n)
                self._positions[clip] += len(tokens_n)

    def _hand_over(self, frame: LatentFrame) -> None:
        self._complete[frame.clip] = frame.number + 1
        self._painter.paint(self._drawings[frame.clip], frame.number, frame.tokens_S.to("cpu", torch.int32))

    def _end(self, clip: int) -> None:
        """Remove a clip, and tell its watcher when all is painted."""
        del self._complete[clip], self._positions[clip]
        self._engine.remove(clip)
        self._painter.end(self._drawings.pop(clip))
