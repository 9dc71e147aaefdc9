"""A rollout: tokens after tokens, latent frame by latent frame, for as long as one likes, at a flat cost.

    plan = ClipPlan(prompts=((0, "a red ball"),), key=NoiseKey(7))
    rollout = Rollout(model, text, [plan], settings, decoder=Jacobi(16))
    rollout.feed(tokens_Bthw)                  # optional: the clips that are continued
    tokens_Bhw = rollout.next_frame()

It keeps the cache, the noise and the prompts of B clips, and offers a decoder what it needs for its passes. The clips
do not see each other: one may be ahead, end before others, and leave its place to another one (`replace`). Under
guidance every clip has two rows in the cache, with its prompt and with its negative prompt.
"""

from collections.abc import Callable, Sequence

import torch

from ..core.errors import require
from ..lm.order import Order
from ..lm.text import TextEncoder
from ..lm.transformer import VideoTransformer
from .decoders import Sequential
from .draw import Draw
from .graph import Captured, CudaGraph, Replayable
from .passes import Decoder, Wave, frames_ahead
from .plan import ClipPlan
from .rules import LogitsProcessor, SamplingConfig
from .state import read_ring, ring_fits, write_ring
from .stats import RolloutStats

# (passes of the model so far, the tokens (n,) that each clip has got in the last one) after each pass.
StepCallback = Callable[[int, list[torch.Tensor]], None]


class Rollout:
    """B clips under way: their plans, caches, positions and noise."""

    @torch.no_grad()
    def __init__(
        self,
        model: VideoTransformer,
        text: TextEncoder,
        plans: Sequence[ClipPlan],
        settings: SamplingConfig,
        *,
        decoder: Decoder | None = None,
        processors: Sequence[LogitsProcessor] = (),
        on_step: StepCallback | None = None,
        capture: type[Replayable] | None = None,
    ) -> None:
        self.model, self.text = model, text
        self.decoder = decoder or Sequential()
        self.on_step, self.guided = on_step, settings.guidance_scale != 1.0
        weight, config = next(model.parameters()), model.config
        ahead = frames_ahead(getattr(self.decoder, "block_size", 1), config.frame_size)
        self.cache = model.make_cache(len(plans) * (2 if self.guided else 1), ahead=ahead)
        self._draw = Draw(settings, processors, config.vocab_size, config.frame_size, weight.device)
        # A pass as a graph, where there are graphs.
        capture = CudaGraph if capture is None and weight.is_cuda else capture
        self._captured = None if capture is None else Captured(capture)
        self._drafted_B = torch.zeros(len(plans), dtype=torch.int64, device=weight.device)
        # The tokens (n,) of each clip, where there are processors to look at them.
        self._seen = [self._drafted_B[:0] for _ in plans] if processors else []
        self.plans, self.positions = list(plans), [0] * len(plans)  # the positions of the cache, known to the host
        self._draw.begin(self.plans)
        self.taken = [0] * len(plans)  # latent frames of each clip that were handed out
        self.stats = RolloutStats()
        self._write_prompts(range(len(plans)))

    def _write_prompts(self, clips: Sequence[int]) -> None:
        """Put the prefixes into the cache with which these clips go on."""
        size, rows = self.model.config.frame_size, list(clips)
        texts = [self.plans[clip].prompt_at(self.positions[clip] // size) for clip in clips]
        if self.guided:
            texts += [self.plans[clip].negative_prompt for clip in clips]
            rows += [clip + len(self.plans) for clip in clips]
        text_BP, lengths_B = self.text.prefix(texts, self.model.config.prefix)
        device = self._drafted_B.device
        self.model.prefill(self.cache, text_BP.to(device), lengths_B.to(device), torch.tensor(rows, device=device))

    @torch.no_grad()
    def feed(self, tokens_Bthw: torch.Tensor) -> None:
        """Read latent frames that are given, the way one's own are remembered; the rollout goes on after them.

        They are read under the prompt that holds at the place where they lie.
        """
        count = self.model.config.frame_size
        for frame_BS in self.model.in_order(tokens_Bthw).split(count, 1):
            self._turn_prompts()
            self.cache.put_tokens(self._rows(frame_BS))
            self.model.step(self.cache, count)
            self._advance(frame_BS, [count] * len(self.plans))
        self.taken = [position // count for position in self.positions]
        self._drafted_B.copy_(self.cache.positions_B[: len(self.plans)])

    def resume(self, tokens_thw: torch.Tensor, ring: dict[str, torch.Tensor]) -> None:
        """Go on with one clip after these tokens: at once where the `ring` they left fits, else by reading them."""
        rows = range(len(self.cache.positions_B))
        if not ring_fits(self.cache, len(rows), ring):
            return self.feed(tokens_thw[None].to(self._drafted_B.device))
        tokens_S = self.model.in_order(tokens_thw[None].to(self._drafted_B.device))[0]
        write_ring(self.cache, rows, ring, tokens_S)
        self.positions, self.taken = [tokens_thw.numel()], [len(tokens_thw)]
        self._drafted_B.copy_(self.cache.positions_B[:1])
        self._seen = [tokens_S for _ in self._seen]

    def ring(self, clip: int) -> dict[str, torch.Tensor]:
        """What `resume` takes, of a clip that stands where its last latent frame ends."""
        return read_ring(self.cache, [clip, clip + len(self.plans)] if self.guided else [clip])

    @torch.no_grad()
    def next_frame(self) -> torch.Tensor:
        """Draw until every clip has one more latent frame: its tokens (B, h, w)."""
        config = self.model.config
        size = config.frame_size
        assert all(plan.latent_frames != taken for plan, taken in zip(self.plans, self.taken, strict=True)), (
            "at its end"
        )
        while any(position < (taken + 1) * size for position, taken in zip(self.positions, self.taken, strict=True)):
            self._turn_prompts()
            self.decoder.step(self)
        starts_B1 = torch.tensor([[taken * size] for taken in self.taken], device=self._drafted_B.device)
        frame_BS = self.cache.tokens(starts_B1 + torch.arange(size, device=starts_B1.device), len(self.plans))
        self.taken = [taken + 1 for taken in self.taken]
        return self.model.as_grid(frame_BS)[:, 0]

    @torch.no_grad()
    def replace(self, clip: int, plan: ClipPlan) -> None:
        """Begin another clip in the place of one."""
        rows = [clip, clip + len(self.plans)] if self.guided else [clip]
        self.cache.positions_B[rows] = 0
        self._drafted_B[clip] = 0
        self.plans[clip], self.positions[clip], self.taken[clip] = plan, 0, 0
        self._draw.begin(self.plans)
        if self._seen:
            self._seen[clip] = self._seen[clip][:0]
        self._write_prompts([clip])

    def keep(self, clips: Sequence[int]) -> None:
        """Drop all clips but these."""
        rows = [*clips, *(clip + len(self.plans) for clip in clips)] if self.guided else list(clips)
        self.cache = self.cache.select(rows)
        self._drafted_B = self._drafted_B[list(clips)]
        for name in ("plans", "positions", "taken", "_seen"):
            values = getattr(self, name)
            setattr(self, name, [values[clip] for clip in clips] if values else [])
        self._draw.begin(self.plans)
        if self._captured is not None:
            self._captured.forget()

    # What a decoder calls.

    @property
    def room(self) -> list[int]:
        """How many more tokens each clip may take now: not beyond its end, a change of prompt, or the next but one
        latent frame that is handed out (of those before the newest tokens are kept)."""
        size, room = self.model.config.frame_size, []
        for plan, position, taken in zip(self.plans, self.positions, self.taken, strict=True):
            ends = (plan.latent_frames, plan.next_change(position // size), taken + 2)
            room.append(min(end for end in ends if end is not None) * size - position)
        return room

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a latent frame in tokens."""
        return self.model.config.rows, self.model.config.columns

    @property
    def order(self) -> Order:
        """In which positions of a latent frame follow each other."""
        return self.model.config.order

    def drafts(self, count: int) -> torch.Tensor:
        """The tokens (B, L) that the next L = `count` positions are guessed to have: what an earlier pass made of them,
        else the newest known token at the same place, else V."""
        batch, size = len(self.plans), self.model.config.frame_size
        positions_BL = self.cache.next_positions(count)[:batch]
        again_BL = self.cache.tokens(positions_BL, batch)
        earlier_BL = positions_BL - (torch.arange(count, device=again_BL.device) // size + 1) * size
        before_BL = self.cache.tokens(earlier_BL, batch).where(earlier_BL >= 0, self.model.config.vocab_size)
        drafts_BL = torch.where(positions_BL < self._drafted_B[:, None], again_BL, before_BL)
        self.cache.put_tokens(self._rows(drafts_BL))
        return drafts_BL

    def logits(self, count: int, wave: Wave | None = None) -> torch.Tensor:
        """Logits (R, L, V) of the next L = `count` positions, given the drafts before each, or of a wave among them;
        R = B or 2 B."""
        with self.stats.timed("model_seconds"):
            self.stats.passes += 1
            if wave is not None:
                return self.model.step(self.cache, count, wave.offsets, wave.sees_LA)
            if self._captured is not None:
                return self._captured(("step", count), lambda: self.model.step(self.cache, count))
            return self.model.step(self.cache, count)

    def draw(self, logits_RLV: torch.Tensor, wave: Wave | None = None) -> torch.Tensor:
        """The tokens (B, L) that these logits and the noise of their positions make."""
        with self.stats.timed("draw_seconds"):
            graphs = self._captured
            if graphs is not None and graphs.owns(logits_RLV) and self._draw.is_steady(logits_RLV):
                return graphs(("draw", logits_RLV.shape[1]), lambda: self._draw_here(logits_RLV)).clone()
            return self._draw(logits_RLV, self.positions, self._seen, None if wave is None else wave.offsets)

    def _draw_here(self, logits_RLV: torch.Tensor) -> torch.Tensor:
        positions_BL = self.cache.next_positions(logits_RLV.shape[1])[: len(self.plans)]
        return self._draw.on_device(logits_RLV, positions_BL)

    def put(self, tokens_BL: torch.Tensor, wave: Wave) -> None:
        """Have these tokens seen at the positions of the wave by the passes that follow."""
        self.cache.put_tokens(self._rows(tokens_BL), wave.offsets)

    def accept(self, tokens_BL: torch.Tensor, counts: Sequence[int]) -> None:
        """Keep the first `counts` of the L tokens of each clip; the others become drafts."""
        most = tokens_BL.shape[1]
        fits = all(0 <= count <= min(most, room) for count, room in zip(counts, self.room, strict=True))
        require(fits, "decoder", f"must accept at most {most} tokens and what there is room for", (counts, self.room))
        self.stats.count(counts)
        self.cache.put_tokens(self._rows(tokens_BL))
        self._drafted_B = self.cache.positions_B[: len(self.plans)] + tokens_BL.shape[1]
        self._advance(tokens_BL, counts)
        if self.on_step is not None:
            self.on_step(self.stats.passes, [tokens_L[:n] for tokens_L, n in zip(tokens_BL, counts, strict=True)])

    def _advance(self, tokens_BL: torch.Tensor, counts: Sequence[int]) -> None:
        self.positions = [position + count for position, count in zip(self.positions, counts, strict=True)]
        if len(set(counts)) > 1:
            self.cache.advance(self._rows(torch.tensor(counts, device=tokens_BL.device)[:, None])[:, 0])
        else:
            self.cache.advance(counts[0])
        if self._seen:  # without processors nothing grows with the clip
            parts = zip(self._seen, tokens_BL, counts, strict=True)
            self._seen = [torch.cat([seen, tokens_L[:count]]) for seen, tokens_L, count in parts]

    def _turn_prompts(self) -> None:
        """Change the prefix of every clip that stands where its prompt changes."""
        size = self.model.config.frame_size
        turning = [clip for clip, at in enumerate(self.positions) if at and self.plans[clip].turns_at(at / size)]
        if turning:
            self._write_prompts(turning)

    def _rows(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        """The clips' tokens for the rows of the cache: twice under guidance."""
        return tokens_BL.repeat(2, 1) if self.guided else tokens_BL
