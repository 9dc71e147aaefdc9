"""Clips of any number and lengths through an engine: a clip that ends leaves its place to the next one.

drawn = draw_clips(engine, plans)                     # drawn[0].tokens_tS, drawn[0].state
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from ..core.progress import progress
from .engine import Engine, LatentFrame
from .plan import ClipPlan


@dataclass(frozen=True)
class DrawnClip:
    """A clip that was drawn to its end.

    Attributes:
        tokens_tS: the latent frames that were drawn, as written.
        state: what it goes on from, or empty.
    """

    tokens_tS: torch.Tensor
    state: dict[str, torch.Tensor] = field(default_factory=dict)


def draw_clips(engine: Engine, plans: Sequence[ClipPlan], *, keep_states: bool = False) -> list[DrawnClip]:
    """Draw every clip to its end; what a clip becomes does not depend on the others.

    Args:
        engine: a new one, or one whose clips are the first of `plans`: clip n of the engine is that of plan n.
        plans: the clips; each has an end.
        keep_states: whether to copy what each clip goes on from.
    """
    given = [engine.next_frame(clip) for clip in engine.clips] + [0] * (len(plans) - len(engine.clips))
    # In one piece: a small tensor for each latent frame, among the large ones that come and go, would keep the memory
    # between them from being used again (190 kB a latent frame with glibc).
    tokens = [
        torch.empty((plan.latent_frames or 0) - start, engine.layout.frame_size, dtype=torch.int64)
        for plan, start in zip(plans, given, strict=True)
    ]
    states: list[dict[str, torch.Tensor]] = [{} for _ in plans]

    def ended(clip: int) -> None:
        if keep_states:
            states[clip] = engine.export(clip)

    drawn = _frames(engine, plans, ended)
    for frame in progress(drawn, "generating", unit="latent frame", total=sum(map(len, tokens))):
        tokens[frame.clip][frame.number - given[frame.clip]] = frame.tokens_S
    return [DrawnClip(tokens_tS, state) for tokens_tS, state in zip(tokens, states, strict=True)]


def _frames(engine: Engine, plans: Sequence[ClipPlan], ended: Callable[[int], None]) -> Iterator[LatentFrame]:
    """Every latent frame as it is complete; `ended` is called with each clip that is at its end."""
    waiting = list(plans[len(engine.clips) :])
    while engine.free and waiting:
        engine.add(waiting.pop(0))
    while engine.clips:
        yield from engine.step()
        for clip in [clip for clip in engine.clips if engine.ended(clip)]:
            ended(clip)
            if waiting:
                engine.replace(clip, waiting.pop(0))
            else:
                engine.remove(clip)
