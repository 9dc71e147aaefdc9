"""Draw any number of clips, of any lengths, through one engine: a clip that ends gives its row to the next one.

drawn = draw_clips(engine, plans)                     # drawn[0].tokens_tS, drawn[0].state
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ..core.progress import progress
from .engine import Engine
from .plan import ClipPlan


@dataclass(frozen=True)
class DrawnClip:
    """A clip whose tokens are drawn, all of them or those up to where drawing stopped.

    Attributes:
        tokens_tS: The latent frames that were drawn, their tokens in writing order.
        state: The cache state from which the clip can be continued, or an empty dictionary.
    """

    tokens_tS: torch.Tensor
    state: dict[str, torch.Tensor] = field(default_factory=dict)


def draw_clips(
    engine: Engine,
    plans: Sequence[ClipPlan],
    *,
    keep_states: bool = False,
    on_exception: Callable[[list[DrawnClip]], object] | None = None,
) -> list[DrawnClip]:
    """Draw every clip to its end, and return the clips in the order of their plans.

    The tokens of a clip do not depend on the other clips. Where the engine stops before (`Engine.stopping`), clips that
    have a latent frame end there, and the others get their first one.

    Args:
        engine: A new engine, or one whose clips are the first ones of `plans`: clip n of the engine has plan n.
        plans: The plans of the clips; each has an end.
        keep_states: Whether to copy the cache state of each clip; a clip that stops within a latent frame has none.
        on_exception: A function that is called when an exception ends the drawing, KeyboardInterrupt among them, with
            the latent frames that each clip has so far (perhaps none); then the exception goes on.
    """
    starts = [engine.next_frame(clip) for clip in engine.clips] + [0] * (len(plans) - len(engine.clips))
    # One tensor for each clip: a small tensor for each latent frame, allocated between large temporary ones, would keep
    # the memory between them from being used again (190 kB a latent frame with glibc).
    tokens = [
        torch.empty((plan.latent_frames or 0) - start, engine.layout.frame_size, dtype=torch.int64)
        for plan, start in zip(plans, starts, strict=True)
    ]
    states: list[dict[str, torch.Tensor]] = [{} for _ in plans]
    counts = [0 for _ in plans]

    def drawn() -> list[DrawnClip]:
        return [DrawnClip(t[:count], state) for t, count, state in zip(tokens, counts, states, strict=True)]

    # The bar is advanced by hand: an exception would come out of a generator around the steps as another one.
    bar = progress(range(sum(map(len, tokens))), "generating", unit="latent frame")
    next(bar, None)
    waiting = list(plans[len(engine.clips) :])
    try:
        while engine.free and waiting:
            engine.add(waiting.pop(0))
        while engine.clips:
            for frame in engine.step():
                tokens[frame.clip][counts[frame.clip]] = frame.tokens_S
                counts[frame.clip] += 1
                next(bar, None)
            for clip in [clip for clip in engine.clips if engine.ended(clip)]:
                if keep_states and engine.between_frames(clip):
                    states[clip] = engine.export(clip)
                if waiting:
                    engine.replace(clip, waiting.pop(0))
                else:
                    engine.remove(clip)
    except BaseException:
        if on_exception is not None:
            on_exception(drawn())
        raise
    finally:
        bar.close()
    return drawn()
