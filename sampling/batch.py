"""Draw any number of clips, of any lengths, through one engine: a clip that ends gives its row to the next one.

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
    """A clip whose tokens are all drawn.

    Attributes:
        tokens_tS: The latent frames that were drawn, their tokens in writing order.
        state: The cache state from which the clip can be continued, or an empty dictionary.
    """

    tokens_tS: torch.Tensor
    state: dict[str, torch.Tensor] = field(default_factory=dict)


def draw_clips(engine: Engine, plans: Sequence[ClipPlan], *, keep_states: bool = False) -> list[DrawnClip]:
    """Draw every clip to its end, and return the clips in the order of their plans.

    The tokens of a clip do not depend on the other clips.

    Args:
        engine: A new engine, or one whose clips are the first ones of `plans`: clip n of the engine has plan n.
        plans: The plans of the clips; each has an end.
        keep_states: Whether to copy the cache state of each clip.
    """
    starts = [engine.next_frame(clip) for clip in engine.clips] + [0] * (len(plans) - len(engine.clips))
    # One tensor for each clip: a small tensor for each latent frame, allocated between large temporary ones, would keep
    # the memory between them from being used again (190 kB a latent frame with glibc).
    tokens = [
        torch.empty((plan.latent_frames or 0) - start, engine.layout.frame_size, dtype=torch.int64)
        for plan, start in zip(plans, starts, strict=True)
    ]
    states: list[dict[str, torch.Tensor]] = [{} for _ in plans]

    def on_end(clip: int) -> None:
        if keep_states:
            states[clip] = engine.export(clip)

    drawn = _frames(engine, plans, on_end)
    for frame in progress(drawn, "generating", unit="latent frame", total=sum(map(len, tokens))):
        tokens[frame.clip][frame.number - starts[frame.clip]] = frame.tokens_S
    return [DrawnClip(tokens_tS, state) for tokens_tS, state in zip(tokens, states, strict=True)]


def _frames(engine: Engine, plans: Sequence[ClipPlan], on_end: Callable[[int], None]) -> Iterator[LatentFrame]:
    """Yield every latent frame as it becomes complete, and call `on_end` with each clip that has reached its end."""
    waiting = list(plans[len(engine.clips) :])
    while engine.free and waiting:
        engine.add(waiting.pop(0))
    while engine.clips:
        yield from engine.step()
        for clip in [clip for clip in engine.clips if engine.ended(clip)]:
            on_end(clip)
            if waiting:
                engine.replace(clip, waiting.pop(0))
            else:
                engine.remove(clip)
