"""The engine: it draws the tokens of many clips pass by pass; clips come and go, and none waits for another.

    engine = Engine(model, settings, capacity=8, decoder=Jacobi(16))
    clip = engine.add(ClipPlan(prompts=((0, "a red ball"),), key=NoiseKey(7), latent_frames=5))
    while not engine.ended(clip):
        for frame in engine.step():             # the latent frames that are complete: frame.clip, frame.tokens_S
            ...
    state = engine.export(clip)                 # `add` continues the clip from it, in this engine or another one
    engine.remove(clip)

The engine holds the cache, the noise and the plans of its clips, and offers a decoder what it needs for its passes.
Every clip has its own position, and its tokens do not depend on the other clips. Under guidance every clip has two rows
in the cache, one with its prompt and one with its negative prompt; the rows of all prompts come first. Where a model
has learnt the guidance scale, its `guided` model draws without guidance instead (`SamplingConfig.chosen`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from ..core.errors import ReelmError, require
from ..core.progress import progress
from ..core.protocols import CacheState, LanguageModel
from .cuda_graph import Captured, CudaGraph, Replayable
from .decoder import Decoder, Wave
from .decoders import Sequential
from .plan import ClipPlan, ClipRow, LogitsProcessor, SamplingConfig, first_anchor
from .sampler import Sampler, SegmentRules
from .stats import EngineStats

# Called after each step of the decoder with (passes so far, the tokens (n,) accepted in this step by clip); stops the
# engine by returning True or raising StopIteration.
StepCallback = Callable[[int, dict[int, torch.Tensor]], object]


class LatentFrame(NamedTuple):
    """A complete latent frame.

    Attributes:
        clip: The number of its clip.
        number: The index of the latent frame in its clip.
        tokens_S: Its tokens in writing order.
    """

    clip: int
    number: int
    tokens_S: torch.Tensor


class Engine:
    """Draws the tokens of up to `capacity` clips at a time.

    Attributes:
        stopping: Whether `on_step` has asked for an end: each clip ends as soon as it has a complete latent frame.
    """

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
        """Allocate the cache of an engine without clips.

        Args:
            model: The language model.
            settings: The sampling settings.
            capacity: The largest number of clips at a time.
            decoder: The decoder; one token at a time by default.
            processors: The logits processors, in their order; only a decoder that is "exact" may be used with them.
            on_step: A function to call after each step of the decoder, until it asks for an end.
            capture: The kind of captured passes; CUDA graphs on a GPU and none on a CPU by default.
        """
        self.model, self.layout, self.capacity, self.on_step = model, model.layout, capacity, on_step
        self.decoder: Decoder = decoder or Sequential()
        self.guided = settings.guidance_scale != 1
        self._copies = 2 if self.guided else 1  # rows of the cache for each clip
        self.stats, self.stopping, self._next_clip = EngineStats(), False, 0
        horizon = model.horizon
        require(horizon is None or horizon >= 1, "horizon", "must be None or at least 1 latent frame", horizon)
        looks_ahead = model.layout.frames(getattr(self.decoder, "block_size", 1))
        self._ahead = max(looks_ahead, getattr(self.decoder, "frames", 1))
        self.cache = model.make_cache(self._copies * capacity, ahead=self._ahead)
        self.cache.arrange([])
        self._sampler = Sampler(settings, processors, model)
        self._segments = SegmentRules(model.layout, model.device)
        self._keeps_history = bool(processors)
        self._captured = Captured(CudaGraph if capture is None and model.device.type == "cuda" else capture)
        self._rows: list[ClipRow] = []
        self.limits: list[int] = []  # the number of tokens that each clip may still accept in this step
        self._finite = torch.ones((), dtype=torch.bool, device=model.device)
        # The position in its cache up to which the next tokens of each clip have drafts.
        self._drafted_B = torch.zeros(0, dtype=torch.int64, device=model.device)
        # The position of its clip at which each cache begins.
        self._starts_B = torch.zeros(0, dtype=torch.int64, device=model.device)

    # Clips that come and go.

    @property
    def clips(self) -> list[int]:
        """The numbers of the clips in the engine."""
        return [row.clip for row in self._rows]

    @property
    def free(self) -> int:
        """The number of clips that can be added now."""
        return self.capacity - len(self._rows)

    def ended(self, clip: int) -> bool:
        """Return whether all latent frames of this clip's plan were handed out, or it ends because of `stopping`."""
        row = self._rows[self._index(clip)]
        return row.emitted == row.plan.latent_frames or (self.stopping and row.emitted > 0)

    def between_frames(self, clip: int) -> bool:
        """Return whether a clip stands where a latent frame ends, so that its state can be exported."""
        position = self._rows[self._index(clip)].position
        return position > 0 and position % self.layout.frame_size == 0

    def _index(self, clip: int) -> int:
        """Return the index of a clip's row among the rows of all clips."""
        require(clip in self.clips, "clip", f"must be one of {self.clips}", clip)
        return self.clips.index(clip)

    @torch.no_grad()
    def add(self, plan: ClipPlan, tokens_tS: torch.Tensor | None = None, state: CacheState | None = None) -> int:
        """Add a clip, and return its number.

        Args:
            plan: The plan of the clip, from its latent frame 0 on.
            tokens_tS: The latent frames that the clip already has, in writing order; it continues after them.
            state: The result of `export` after these tokens; where it fits the cache, they are not read again.

        Raises:
            ReelmError: The engine has as many clips as its capacity, or the tokens do not fit the layout or the plan.
        """
        require(self.free > 0, "capacity", "must be more than the clips that are there", self.capacity)
        plan.check_past(self.model.layout, tokens_tS)
        index, row = len(self._rows), self._new_row(plan)
        self._arrange([*range(index), None], [*self._rows, row])
        if tokens_tS is not None and len(tokens_tS):
            self._begin_after(index, tokens_tS.to(self.model.device), state)
        return row.clip

    def remove(self, clip: int) -> None:
        """Remove a clip."""
        removed = self._index(clip)
        kept = [index for index in range(len(self._rows)) if index != removed]
        self._arrange(kept, [self._rows[index] for index in kept])

    def replace(self, clip: int, plan: ClipPlan) -> int:
        """Remove a clip and add a new one in its row; return the number of the new one."""
        index, row = self._index(clip), self._new_row(plan)
        sources = [None if other == index else other for other in range(len(self._rows))]
        self._arrange(sources, [*self._rows[:index], row, *self._rows[index + 1 :]])
        return row.clip

    def _new_row(self, plan: ClipPlan) -> ClipRow:
        """Return the row of a new clip."""
        row = ClipRow(self._next_clip, plan, history=torch.empty(0, dtype=torch.int64, device=self.model.device))
        self._next_clip += 1
        return row

    def _arrange(self, sources: Sequence[int | None], rows: list[ClipRow]) -> None:
        """Replace the rows of all clips, each from its old row, or from none."""
        before = len(self._rows)
        # A row that holds nothing yet need not be moved.
        sources = [None if source is None or not self._rows[source].conditioned else source for source in sources]
        doubled = [*sources, *(None if source is None else source + before for source in sources)]
        self.cache.arrange(doubled if self.guided else sources)
        moved = torch.tensor([-1 if source is None else source for source in sources], dtype=torch.int64)
        drafted = torch.cat((self._drafted_B, self._drafted_B.new_zeros(1)))  # -1 is the last entry, 0
        self._drafted_B = drafted[moved.to(drafted.device)]
        same = len(rows) == before
        self._rows = rows
        starts = [row.anchor * self.layout.frame_size for row in rows]
        starts_B = torch.tensor(starts, dtype=torch.int64, device=self.model.device)
        # In place where the number of rows is the same: a graph may read it there.
        self._starts_B = self._starts_B.copy_(starts_B) if same else starts_B
        self._sampler.set_plans([row.plan for row in rows])
        if not same:
            self._captured.forget()

    def export(self, clip: int) -> dict[str, torch.Tensor]:
        """Return the cache state of a clip, which `add` takes; the clip must be at the end of a latent frame."""
        index = self._index(clip)
        require(self.between_frames(clip), "clip", "must stand where a latent frame ends", self._rows[index].position)
        return self.cache.export(self._cache_rows(index))

    def feed(self, clip: int, controls: Mapping[str, torch.Tensor]) -> int:
        """Set tokens (t, *shape) of given segments for the next t latent frames of which no token is drawn.

        Returns:
            The first of these latent frames.
        """
        start = self.next_frame(clip)
        self.change(clip, self.plan(clip).with_controls(self.layout, start, controls))
        return start

    def change(self, clip: int, plan: ClipPlan) -> None:
        """Replace the plan of a clip by one that is the same for all latent frames that were begun."""
        self._rows[self._index(clip)].plan = plan
        self._sampler.set_plans([row.plan for row in self._rows])

    def rewind(self, clip: int, latent_frame: int) -> None:
        """Take back the newest latent frame of a clip, or what is drawn of it: the next token is its first one again.

        Its tokens stay as drafts. What it and the drafts after it overwrote in the cache and among the newest tokens
        (`HISTORY`) is older than what it sees itself, so that it is drawn again as if for the first time.

        Args:
            clip: The number of the clip.
            latent_frame: The latent frame to begin again; nothing of the next one may be drawn.

        Raises:
            ReelmError: More than one latent frame would be taken back, or the model's cache does not roll.
        """
        index, size = self._index(clip), self.layout.frame_size
        row, start = self._rows[index], latent_frame * size
        newest = start <= row.position <= start + size
        require(newest, "latent_frame", "must be the newest one", (latent_frame, row.position))
        require(self.model.horizon is None, "model", "must have a cache that rolls to take a latent frame back", clip)
        taken_back = self._cache_rows(index)
        rows = range(len(self.cache.positions_B))
        self.cache.advance([start - row.position if each in taken_back else 0 for each in rows])
        row.position, row.emitted = start, min(row.emitted, latent_frame)
        row.history = row.history[:start]

    def plan(self, clip: int) -> ClipPlan:
        """Return the plan of a clip."""
        return self._rows[self._index(clip)].plan

    def next_frame(self, clip: int) -> int:
        """Return the first latent frame of a clip of which no token is drawn."""
        return self.layout.frames(self._rows[self._index(clip)].position)

    # Reading conditions and given tokens.

    def _cache_rows(self, index: int) -> list[int]:
        """Return the rows of the cache that belong to a clip."""
        return [index, index + len(self._rows)] if self.guided else [index]

    def _condition(self, indices: Sequence[int]) -> None:
        """Put the conditions of their next latent frame into the rows of these clips."""
        cache_rows = [index + copy * len(self._rows) for copy in range(self._copies) for index in indices]
        rows, size = [self._rows[index] for index in indices], self.layout.frame_size
        found = [row.plan.conditions_of_rows(row.position // size, self._copies) for row in rows]
        self.model.condition(self.cache, cache_rows, [each[copy] for copy in range(self._copies) for each in found])
        for index in indices:
            self._rows[index].conditioned = True

    def _begin_after(self, index: int, tokens_tS: torch.Tensor, state: CacheState | None) -> None:
        """Set a clip to the end of these latent frames: by its state where that fits, else by reading them."""
        row, count = self._rows[index], len(tokens_tS)
        # The anchor at which the last of these latent frames was drawn, as when the state was exported. If the cache
        # has to begin anew with the next one, the next step does it.
        self._begin_cache(index, first_anchor(count - 1, self.model.horizon))
        row.position, row.emitted, row.conditioned = tokens_tS.numel(), count, True
        row.first, cache_rows = tokens_tS[0], self._cache_rows(index)
        kept_tS = row.kept(tokens_tS[row.anchor :], self.model)
        if state is not None and self.cache.accepts(len(cache_rows), state):
            self.cache.restore(cache_rows, state, kept_tS.flatten())
        else:
            self._read(index, kept_tS)
        self._drafted_B[index] = kept_tS.numel()
        if self._keeps_history:
            row.history = tokens_tS.flatten()
        if self.model.horizon is not None:
            row.newest = list(tokens_tS[-self.model.horizon :])

    def _begin_cache(self, index: int, anchor: int) -> None:
        """Set the latent frame at which the cache of a clip begins."""
        self._rows[index].anchor = anchor
        self._starts_B[index] = anchor * self.layout.frame_size

    def _read(self, index: int, tokens_tS: torch.Tensor) -> None:
        """Read the latent frames of a clip from its anchor on into its rows, under the prompts that hold for them."""
        row, copies = self._rows[index], list(range(self._copies))
        alone = len(self._rows) == 1
        # The passes would advance the other clips too: a clip among others is read in a cache of its own.
        cache = self.cache if alone else self.model.make_cache(self._copies, ahead=self._ahead)
        if alone:
            cache.arrange([None] * self._copies)
        for frame, tokens_S in enumerate(progress(tokens_tS, "reading the clip", unit="latent frame"), row.anchor):
            if frame == row.anchor or row.plan.changes_at(frame):
                self.model.condition(cache, copies, row.plan.conditions_of_rows(frame, self._copies))
            cache.put_tokens(tokens_S.expand(self._copies, -1))
            self.model.step(cache, self.layout.frame_size)
            cache.advance(self.layout.frame_size)
        if not alone:
            self.cache.restore(self._cache_rows(index), cache.export(copies), tokens_tS.flatten())

    # Drawing tokens.

    @torch.no_grad()
    def step(self) -> list[LatentFrame]:
        """Run one step of the decoder for all clips that are not at their end; return the newly complete frames.

        Raises:
            ReelmError: The model has given logits that are no numbers, or the decoder breaks a rule.
        """
        self._begin_frames()
        self.limits = [row.limit(self.layout.frame_size, self.model.horizon) for row in self._rows]
        if not any(self.limits):
            return []
        try:
            self.decoder.step(self)
        except StopIteration as error:  # it would end, or break, any generator on its way
            raise ReelmError(f"decoder: {self.decoder.name} must make a step, got StopIteration") from error
        frames = self._complete()
        if frames or self.model.device.type == "cpu":  # where frames are handed out, a GPU is waited for anyway
            rule = "must give a finite largest logit and no NaN (a dtype of fewer bits may overflow)"
            require(bool(self._finite), f"model {type(self.model).__name__}", rule, "NaN or infinity")
        return frames

    def _begin_frames(self) -> None:
        """Set the conditions that begin or change here, and begin caches anew that have reached the model's horizon."""
        size, horizon, changing = self.layout.frame_size, self.model.horizon, []
        for index, row in enumerate(self._rows):
            frame, part = divmod(row.position, size)
            if part or frame == row.plan.latent_frames:
                continue
            if horizon is not None and frame - row.anchor >= horizon:
                self._begin_cache(index, first_anchor(frame, horizon))
                kept = frame - row.anchor
                self._read(index, row.kept(torch.stack(row.newest[-kept:]), self.model))
                self._drafted_B[index] = kept * size
            if not row.conditioned or (frame and row.plan.changes_at(frame)):
                changing.append(index)
        if changing:
            self._condition(changing)

    def _complete(self) -> list[LatentFrame]:
        """Return the latent frames that are complete and were not handed out yet."""
        found = []
        for index, row in enumerate(self._rows):
            while row.emitted < row.position // self.layout.frame_size:
                tokens_S = self.cache.frame(index, row.emitted - row.anchor)
                found.append(LatentFrame(row.clip, row.emitted, tokens_S))
                row.first = tokens_S if row.emitted == 0 else row.first
                row.emitted += 1
                if self.model.horizon is not None:
                    row.newest = [*row.newest, tokens_S][-self.model.horizon :]
        return found

    # The methods that a decoder calls (`EngineView`).

    def drafts(self, count: int) -> torch.Tensor:
        """Return drafts (B, L) of the tokens at the next L = `count` positions.

        A draft is the given token where there is one, else the token that an earlier pass drew there, else the newest
        known token at the same raster index, else V.
        """
        batch, size = len(self._rows), self.layout.frame_size
        positions_BL = self.cache.next_positions(count)[:batch]
        drawn_BL = self.cache.tokens(positions_BL)
        earlier_BL = positions_BL - (torch.arange(count, device=drawn_BL.device) // size + 1) * size
        before_BL = self.cache.tokens(earlier_BL).where(earlier_BL >= 0, self.layout.vocab_size)
        drafts_BL = torch.where(positions_BL < self._drafted_B[:, None], drawn_BL, before_BL)
        drafts_BL = self._segments.with_given(drafts_BL, self._rows, range(count))
        self.cache.put_tokens(self._doubled(drafts_BL))
        return drafts_BL

    def logits(self, count: int, wave: Wave | None = None) -> torch.Tensor:
        """Return logits (R, L, V) of the next L = `count` positions, given the drafts before each, or of a wave.

        R is B, or 2 B under guidance.
        """
        with self.stats.timed("model_seconds"):
            self.stats.passes += 1
            if wave is None:
                logits_RLV = self._captured(("step", count), lambda: self.model.step(self.cache, count))
            else:
                logits_RLV = self.model.step(self.cache, count, wave.offsets, wave.sees_LA)
            # The largest is NaN where any is. It is not read here, since that would wait for a GPU.
            self._finite &= logits_RLV.amax(-1).isfinite().all()
            offsets = range(count) if wave is None else wave.offsets
            return self._segments.only_allowed(logits_RLV, self.cache.positions_B, offsets)

    def draw(self, logits_RLV: torch.Tensor, wave: Wave | None = None) -> torch.Tensor:
        """Return the tokens (B, L) that follow from these logits and the noise of their positions, or are given."""
        offsets = None if wave is None else wave.offsets
        with self.stats.timed("draw_seconds"):
            if self._captured.owns(logits_RLV) and self._sampler.can_capture(logits_RLV):
                key = ("draw", logits_RLV.shape[1])
                tokens_BL = self._captured(key, lambda: self._draw_on_device(logits_RLV)).clone()
            else:
                positions, histories = [row.position for row in self._rows], [row.history for row in self._rows]
                tokens_BL = self._sampler(logits_RLV, positions, histories, offsets)
            return self._segments.with_given(tokens_BL, self._rows, offsets or range(logits_RLV.shape[1]))

    def _draw_on_device(self, logits_RLV: torch.Tensor) -> torch.Tensor:
        positions_BL = self.cache.next_positions(logits_RLV.shape[1])[: len(self._rows)]
        return self._sampler.on_device(logits_RLV, positions_BL + self._starts_B[:, None])

    def put(self, tokens_BL: torch.Tensor, wave: Wave) -> None:
        """Set the tokens at the positions of the wave that the following passes read."""
        self.cache.put_tokens(self._doubled(tokens_BL), wave.offsets)

    def accept(self, tokens_BL: torch.Tensor, counts: Sequence[int]) -> None:
        """Keep the first `counts` of the L tokens of each clip; the others become drafts."""
        most = tokens_BL.shape[1]
        fits = all(0 <= count <= min(most, limit) for count, limit in zip(counts, self.limits, strict=True))
        require(fits, "decoder", f"must accept at most {most} tokens and what its limits allow", (counts, self.limits))
        self.limits = [limit - count for limit, count in zip(self.limits, counts, strict=True)]
        self.stats.count(counts)
        self.cache.put_tokens(self._doubled(tokens_BL))
        self._drafted_B = self.cache.positions_B[: len(self._rows)] + most
        for index, (row, count) in enumerate(zip(self._rows, counts, strict=True)):
            row.position += count
            if self._keeps_history:  # else nothing grows with the clip
                row.history = torch.cat([row.history, tokens_BL[index, :count]])
        if len(set(counts)) > 1:
            self.cache.advance([*counts, *counts] if self.guided else counts)
        else:
            self.cache.advance(counts[0])
        if self.on_step is not None and not self.stopping:
            accepted = zip(self.clips, tokens_BL, counts, strict=True)
            try:
                answer = self.on_step(self.stats.passes, {clip: new_L[:count] for clip, new_L, count in accepted})
            except StopIteration:  # it would end, or break, any generator on its way
                answer = True
            self.stopping = answer is True

    def _doubled(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        """Return the clips' tokens for the rows of the cache: twice under guidance."""
        return tokens_BL.repeat(2, 1) if self.guided else tokens_BL
