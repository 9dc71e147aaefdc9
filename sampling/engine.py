"""The engine: clips come, get tokens pass by pass, latent frame by latent frame, and go; no clip waits for another.

    engine = Engine(model, settings, capacity=8, decoder=Jacobi(16))
    clip = engine.add(ClipPlan(prompts=((0, "a red ball"),), key=NoiseKey(7), latent_frames=5))
    while not engine.ended(clip):
        for frame in engine.step():             # the latent frames that are complete: frame.clip, frame.tokens_S
            ...
    state = engine.export(clip)                 # what `add` takes to go on with the clip, here or elsewhere
    engine.remove(clip)

It keeps the cache, the noise and the plans of its clips, and offers a decoder what it needs for its passes. Every clip
stands at its own position, and its tokens do not depend on the clips beside it. Under guidance every clip has two rows
in the cache, with its prompt and with its negative prompt; the rows of all prompts come first.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from ..core.errors import require
from ..core.layout import FrameLayout
from ..core.protocols import CacheState, LanguageModel
from .cuda_graph import Captured, CudaGraph, Replayable
from .decoder import Decoder, Wave
from .decoders import Sequential
from .plan import ClipPlan
from .rows import ClipRow, SegmentRules, first_anchor
from .rules import LogitsProcessor, SamplingConfig
from .sampler import Sampler
from .stats import EngineStats

# (passes of the model so far, by clip the tokens (n,) that it has got in the last step) after each step of the decoder.
StepCallback = Callable[[int, dict[int, torch.Tensor]], None]


class LatentFrame(NamedTuple):
    """A latent frame that is complete: its clip, its own number from 0 on, its tokens (S,) as written."""

    clip: int
    number: int
    tokens_S: torch.Tensor


class Engine:
    """Draws the tokens of up to `capacity` clips."""

    def __init__(
        self,
        model: LanguageModel,
        settings: SamplingConfig,
        *,
        capacity: int = 1,
        decoder: Decoder | None = None,
        processors: Sequence[LogitsProcessor] = (),
        on_step: StepCallback | None = None,
        capture: type[Replayable] | None = None,
    ) -> None:
        """Allocate the cache; no clip is there yet.

        Args:
            model: the language model.
            settings: how the next token is drawn.
            capacity: the most clips at a time.
            decoder: how tokens are found; one by one unless given.
            processors: of logits, in their order; only a decoder that is "exact" may be used with them.
            on_step: called after each step of the decoder.
            capture: how passes are captured; as CUDA graphs on a GPU unless given.
        """
        self.model, self.capacity, self.on_step = model, capacity, on_step
        self.decoder: Decoder = decoder or Sequential()
        self.guided = settings.guidance_scale != 1.0
        self.stats = EngineStats()
        horizon = model.horizon
        require(horizon is None or horizon >= 2, "horizon", "must be None or at least 2 latent frames", horizon)
        self._ahead = model.layout.frames(getattr(self.decoder, "block_size", 1))
        self.cache = model.make_cache(self._copies * capacity, ahead=self._ahead)
        self.cache.arrange([])
        self._sampler, self._segments = Sampler(settings, processors, model), SegmentRules(model.layout, model.device)
        self._watched = bool(processors)
        capture = CudaGraph if capture is None and model.device.type == "cuda" else capture
        self._captured = None if capture is None else Captured(capture)
        self._rows: list[ClipRow] = []
        self._next_clip = 0
        # Up to where, in positions of its cache, each clip's next tokens have been drafted.
        self._drafted_B = torch.zeros(0, dtype=torch.int64, device=model.device)
        # At which position of its clip each cache begins.
        self._starts_B = torch.zeros(0, dtype=torch.int64, device=model.device)

    # Clips that come and go.

    @property
    def _copies(self) -> int:
        """Rows of the cache for each clip."""
        return 2 if self.guided else 1

    @property
    def clips(self) -> list[int]:
        """The numbers of the clips that are there."""
        return [row.clip for row in self._rows]

    @property
    def free(self) -> int:
        """How many more clips may come now."""
        return self.capacity - len(self._rows)

    def ended(self, clip: int) -> bool:
        """Whether all latent frames of the plan of this clip were handed out."""
        row = self._rows[self._index(clip)]
        return row.emitted == row.plan.latent_frames

    def _index(self, clip: int) -> int:
        require(clip in self.clips, "clip", f"must be one of {self.clips}", clip)
        return self.clips.index(clip)

    @torch.no_grad()
    def add(self, plan: ClipPlan, tokens_tS: torch.Tensor | None = None, state: CacheState | None = None) -> int:
        """Have a clip come, and return its number.

        Args:
            plan: what it is to become, from its latent frame 0 on.
            tokens_tS: latent frames of it that are there already, as written; it goes on after them.
            state: what `export` gave after these tokens; where it fits they are not read again.

        Raises:
            ReelmError: there are as many clips as the engine has room for.
        """
        require(self.free > 0, "capacity", "must be more than the clips that are there", self.capacity)
        row, place = ClipRow(self._next_clip, plan), len(self._rows)
        self._next_clip += 1
        rows = list(range(place))
        self._arrange([*rows, None], [*self._rows, row])
        if self._watched:
            row.seen = row.seen.to(self.model.device)
        if tokens_tS is not None and len(tokens_tS):
            self._begin_after(place, tokens_tS.to(self.model.device), state)
        return row.clip

    def remove(self, clip: int) -> None:
        """Have a clip go."""
        gone = self._index(clip)
        rows = [place for place in range(len(self._rows)) if place != gone]
        self._arrange(rows, [self._rows[place] for place in rows])

    def replace(self, clip: int, plan: ClipPlan) -> int:
        """Have a clip go and another one come in its place; the number of the new one."""
        place = self._index(clip)
        rows: list[int | None] = [None if here == place else here for here in range(len(self._rows))]
        fresh = ClipRow(self._next_clip, plan)
        self._next_clip += 1
        if self._watched:
            fresh.seen = fresh.seen.to(self.model.device)
        self._arrange(rows, [fresh if here is None else self._rows[here] for here in rows])
        return fresh.clip

    def _arrange(self, sources: Sequence[int | None], rows: list[ClipRow]) -> None:
        """Have these clips in this order, each from its old row, or from none."""
        before = len(self._rows)
        # A row that holds nothing yet is not worth moving.
        sources = [None if source is None or not self._rows[source].conditioned else source for source in sources]
        doubled = [*sources, *(None if source is None else source + before for source in sources)]
        self.cache.arrange(doubled if self.guided else sources)
        moved = torch.tensor([-1 if source is None else source for source in sources], dtype=torch.int64)
        drafted = torch.cat((self._drafted_B, self._drafted_B.new_zeros(1)))  # -1 is the last one, at 0
        self._drafted_B = drafted[moved.to(drafted.device)]
        same = len(rows) == before
        self._rows = rows
        starts = [row.anchor * self.model.layout.frame_size for row in rows]
        starts_B = torch.tensor(starts, dtype=torch.int64, device=self.model.device)
        # In place where it can be: a graph may look there.
        self._starts_B = self._starts_B.copy_(starts_B) if same else starts_B
        self._sampler.begin([row.plan for row in rows])
        if self._captured is not None and not same:
            self._captured.forget()

    def export(self, clip: int) -> dict[str, torch.Tensor]:
        """What `add` takes as `state`, of a clip that stands where its last latent frame ends."""
        place = self._index(clip)
        size, position = self.model.layout.frame_size, self._rows[place].position
        require(position > 0 and position % size == 0, "clip", "must stand where a latent frame ends", position)
        return self.cache.export(self._rows_of(place))

    def feed(self, clip: int, controls: Mapping[str, torch.Tensor]) -> int:
        """Give tokens (t, *shape) of given segments for the next t latent frames, from the first that is not begun.

        Returns:
            The latent frame from which on they hold.
        """
        row = self._rows[self._index(clip)]
        layout, start = self.model.layout, self._next_frame(row)
        merged = dict(row.plan.controls)
        for name, tokens in controls.items():
            segment = layout[name]
            require(segment.given, "controls", "must be of given segments", name)
            past = merged.get(name, torch.empty((0, *segment.shape), dtype=torch.int64))[:start]
            missing = torch.full((start - len(past), *segment.shape), segment.default)
            merged[name] = torch.cat([past, missing, tokens.long()])
        self.change(clip, dataclasses.replace(row.plan, controls=merged))
        return start

    def change(self, clip: int, plan: ClipPlan) -> None:
        """Give a clip another plan; it must be the old one for all that is drawn already."""
        self._rows[self._index(clip)].plan = plan
        self._sampler.begin([row.plan for row in self._rows])

    def plan(self, clip: int) -> ClipPlan:
        """What a clip is to become."""
        return self._rows[self._index(clip)].plan

    def next_frame(self, clip: int) -> int:
        """The first latent frame of a clip of which no token is drawn."""
        return self._next_frame(self._rows[self._index(clip)])

    def _next_frame(self, row: ClipRow) -> int:
        return -(-row.position // self.model.layout.frame_size)

    # Reading what is given.

    def _rows_of(self, place: int) -> list[int]:
        """The rows of the cache that belong to a clip."""
        return [place, place + len(self._rows)] if self.guided else [place]

    def _condition(self, places: Sequence[int]) -> None:
        """Put the conditions of their next latent frame into the rows of these clips."""
        size, rows = self.model.layout.frame_size, list(places)
        conditions = [self._rows[place].plan.conditions_at(self._rows[place].position // size) for place in places]
        if self.guided:
            rows += [place + len(self._rows) for place in places]
            conditions += [self._rows[place].plan.negative_conditions for place in places]
        self.model.condition(self.cache, rows, conditions)
        for place in places:
            self._rows[place].conditioned = True

    def _begin_after(self, place: int, tokens_tS: torch.Tensor, state: CacheState | None) -> None:
        """Have a clip stand at the end of these latent frames: by its state where that fits, else by reading them."""
        row, count = self._rows[place], len(tokens_tS)
        # Where the cache begins when the last of them was drawn, as it was when the state was exported. If it is to
        # begin anew with the next one, the next step sees to that.
        self._begin_cache(place, first_anchor(count - 1, self.model.horizon))
        row.position, row.emitted, row.conditioned = tokens_tS.numel(), count, True
        kept_tS, rows = tokens_tS[row.anchor :], self._rows_of(place)
        if state is not None and self.cache.accepts(len(rows), state):
            self.cache.restore(rows, state, kept_tS.flatten())
        else:
            self._read(place, kept_tS)
        self._drafted_B[place] = kept_tS.numel()
        if self._watched:
            row.seen = tokens_tS.flatten()
        if self.model.horizon is not None:
            row.newest = list(tokens_tS[-self.model.horizon :])

    def _begin_cache(self, place: int, anchor: int) -> None:
        """Have the cache of a clip begin with this latent frame."""
        self._rows[place].anchor = anchor
        self._starts_B[place] = anchor * self.model.layout.frame_size

    def _read(self, place: int, tokens_tS: torch.Tensor) -> None:
        """Read the latent frames of a clip from its anchor on into its rows, under the prompts that hold there."""
        row, size, rows = self._rows[place], self.model.layout.frame_size, self._rows_of(place)
        alone = len(self._rows) == 1
        # Other clips would be read on too: a clip beside others is read in a cache of its own.
        cache = self.cache if alone else self.model.make_cache(self._copies, ahead=self._ahead)
        copies = list(range(self._copies))
        if alone:
            cache.arrange([None] * self._copies)
        for index, tokens_S in enumerate(tokens_tS):
            frame = row.anchor + index
            if index == 0 or row.plan.changes_at(frame):
                both = [row.plan.conditions_at(frame), row.plan.negative_conditions]
                self.model.condition(cache, copies, both[: self._copies])
            cache.put_tokens(tokens_S.expand(self._copies, -1))
            self.model.step(cache, size)
            cache.advance(size)
        if not alone:
            self.cache.restore(rows, cache.export(copies), tokens_tS.flatten())

    # The work.

    @torch.no_grad()
    def step(self) -> list[LatentFrame]:
        """One step of the decoder for all clips that are not at their end; the latent frames that are complete now."""
        if not self._rows:
            return []
        self._begin_frames()
        self.decoder.step(self)
        return self._complete()

    def _begin_frames(self) -> None:
        """Set the conditions that begin or change here, and begin caches anew that have reached the model's horizon."""
        size, horizon, changing = self.model.layout.frame_size, self.model.horizon, []
        for place, row in enumerate(self._rows):
            frame, part = divmod(row.position, size)
            if part or frame == row.plan.latent_frames:
                continue
            if horizon is not None and frame - row.anchor >= horizon:
                self._begin_cache(place, first_anchor(frame, horizon))
                kept = frame - row.anchor
                self._read(place, torch.stack(row.newest[-kept:]))
                self._drafted_B[place] = kept * size
            if not row.conditioned or (frame and row.plan.changes_at(frame)):
                changing.append(place)
        if changing:
            self._condition(changing)

    def _complete(self) -> list[LatentFrame]:
        """The latent frames that are complete and were not handed out yet."""
        size, found = self.model.layout.frame_size, []
        for place, row in enumerate(self._rows):
            while row.emitted < row.position // size:
                tokens_S = self.cache.frame(place, row.emitted - row.anchor)
                found.append(LatentFrame(row.clip, row.emitted, tokens_S))
                row.emitted += 1
                if self.model.horizon is not None:
                    row.newest = [*row.newest, tokens_S][-self.model.horizon :]
        return found

    # What a decoder calls.

    @property
    def layout(self) -> FrameLayout:
        """The layout of a latent frame."""
        return self.model.layout

    @property
    def limits(self) -> list[int]:
        """How many more tokens each clip may accept now: up to its end, a change of its prompt, the model's horizon, or
        the second latent frame from here (of those before the newest tokens are kept)."""
        size, horizon = self.model.layout.frame_size, self.model.horizon
        return [row.limit(size, horizon) for row in self._rows]

    def drafts(self, count: int) -> torch.Tensor:
        """The tokens (B, L) that the next L = `count` positions are guessed to have: those that are given, else what an
        earlier pass made of them, else the newest known token at the same place, else V."""
        batch, size = len(self._rows), self.model.layout.frame_size
        positions_BL = self.cache.next_positions(count)[:batch]
        again_BL = self.cache.tokens(positions_BL)
        earlier_BL = positions_BL - (torch.arange(count, device=again_BL.device) // size + 1) * size
        before_BL = self.cache.tokens(earlier_BL).where(earlier_BL >= 0, self.model.layout.vocab_size)
        drafts_BL = torch.where(positions_BL < self._drafted_B[:, None], again_BL, before_BL)
        drafts_BL = self._segments.with_given(drafts_BL, self._rows, range(count))
        self.cache.put_tokens(self._doubled(drafts_BL))
        return drafts_BL

    def logits(self, count: int, wave: Wave | None = None) -> torch.Tensor:
        """Logits (R, L, V) of the next L = `count` positions, given the drafts before each, or of a wave among them;
        R = B or 2 B."""
        with self.stats.timed("model_seconds"):
            self.stats.passes += 1
            if wave is not None:
                logits_RLV = self.model.step(self.cache, count, wave.offsets, wave.sees_LA)
            elif self._captured is not None:
                logits_RLV = self._captured(("step", count), lambda: self.model.step(self.cache, count))
            else:
                logits_RLV = self.model.step(self.cache, count)
            offsets = range(count) if wave is None else wave.offsets
            return self._segments.only_allowed(logits_RLV, self.cache.positions_B, offsets)

    def draw(self, logits_RLV: torch.Tensor, wave: Wave | None = None) -> torch.Tensor:
        """The tokens (B, L) that these logits and the noise of their positions make, or that are given."""
        offsets = None if wave is None else wave.offsets
        with self.stats.timed("draw_seconds"):
            graphs = self._captured
            if graphs is not None and graphs.owns(logits_RLV) and self._sampler.is_steady(logits_RLV):
                tokens_BL = graphs(("draw", logits_RLV.shape[1]), lambda: self._draw_here(logits_RLV)).clone()
            else:
                positions = [row.position for row in self._rows]
                tokens_BL = self._sampler(logits_RLV, positions, [row.seen for row in self._rows], offsets)
            ahead = range(logits_RLV.shape[1]) if offsets is None else offsets
            return self._segments.with_given(tokens_BL, self._rows, ahead)

    def _draw_here(self, logits_RLV: torch.Tensor) -> torch.Tensor:
        positions_BL = self.cache.next_positions(logits_RLV.shape[1])[: len(self._rows)]
        return self._sampler.on_device(logits_RLV, positions_BL + self._starts_B[:, None])

    def put(self, tokens_BL: torch.Tensor, wave: Wave) -> None:
        """Have the passes that follow see these tokens at the positions of the wave."""
        self.cache.put_tokens(self._doubled(tokens_BL), wave.offsets)

    def accept(self, tokens_BL: torch.Tensor, counts: Sequence[int]) -> None:
        """Keep the first `counts` of the L tokens of each clip; the others become drafts."""
        most, limits = tokens_BL.shape[1], self.limits
        fits = all(0 <= count <= min(most, limit) for count, limit in zip(counts, limits, strict=True))
        require(fits, "decoder", f"must accept at most {most} tokens and what its limits allow", (counts, limits))
        self.stats.count(counts)
        self.cache.put_tokens(self._doubled(tokens_BL))
        self._drafted_B = self.cache.positions_B[: len(self._rows)] + most
        for row, tokens_L, count in zip(self._rows, tokens_BL, counts, strict=True):
            row.position += count
            if self._watched:  # without processors nothing grows with the clip
                row.seen = torch.cat([row.seen, tokens_L[:count]])
        if len(set(counts)) > 1:
            counts_B1 = torch.tensor(counts, device=tokens_BL.device)[:, None]
            self.cache.advance(self._doubled(counts_B1)[:, 0])
        else:
            self.cache.advance(counts[0])
        if self.on_step is not None:
            accepted = zip(self.clips, tokens_BL, counts, strict=True)
            self.on_step(self.stats.passes, {clip: tokens_L[:count] for clip, tokens_L, count in accepted})

    def _doubled(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        """The clips' tokens for the rows of the cache: twice under guidance."""
        return tokens_BL.repeat(2, 1) if self.guided else tokens_BL
