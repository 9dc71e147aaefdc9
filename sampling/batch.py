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
        engine: whose clips, if it has some, are the first of `plans`.
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

    def ended(number: int, clip: int) -> None:
        if keep_states:
            states[number] = engine.export(clip)

    drawn = _frames(engine, plans, ended)
    for number, frame in progress(drawn, "generating", unit="latent frame", total=sum(map(len, tokens))):
        tokens[number][frame.index - given[number]] = frame.tokens_S
    return [DrawnClip(tokens_tS, state) for tokens_tS, state in zip(tokens, states, strict=True)]


def _frames(
    engine: Engine, plans: Sequence[ClipPlan], ended: Callable[[int, int], None]
) -> Iterator[tuple[int, LatentFrame]]:
    """Every latent frame as it is complete, with the number of its plan; `ended` is told (that, the engine's clip)."""
    numbers = {clip: number for number, clip in enumerate(engine.clips)}
    following = iter(range(len(numbers), len(plans)))
    for number in range(len(numbers), min(len(plans), engine.capacity)):
        numbers[engine.add(plans[number])] = next(following)
    while engine.clips:
        for frame in engine.step():
            yield numbers[frame.clip], frame
        for clip in [clip for clip in engine.clips if engine.ended(clip)]:
            ended(numbers[clip], clip)
            number = next(following, None)
            if number is None:
                engine.remove(clip)
            else:
                numbers[engine.replace(clip, plans[number])] = number
