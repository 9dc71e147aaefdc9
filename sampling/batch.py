"""Clips of any number and lengths in a rollout of so many rows: a clip that ends leaves its place to the next one.

tokens, rings, rollout = sample_clips(begin, plans, batch_size=8)      # tokens: a list of (t, h, w)
"""

from collections.abc import Callable, Iterator, Sequence

import torch

from ..core.progress import progress
from .plan import ClipPlan
from .rollout import Rollout


def sample_clips(
    begin: Callable[[Sequence[ClipPlan]], Rollout],
    plans: Sequence[ClipPlan],
    batch_size: int | None = None,
    *,
    keep_rings: bool = False,
) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]], Rollout]:
    """Draw every clip to its end; what a clip becomes does not depend on the others.

    Args:
        begin: makes a rollout of clips.
        plans: the clips; each has an end.
        batch_size: clips at a time; all of them by default.
        keep_rings: whether to copy what each clip goes on from.

    Returns:
        The new tokens (t, h, w) of each clip, the ring of each (empty if not kept), and the rollout that drew them.
    """
    rollout = begin(plans[: len(plans) if batch_size is None else batch_size])
    config, device = rollout.model.config, rollout.cache.positions_B.device
    given = [*rollout.taken, *(0 for _ in plans[len(rollout.taken) :])]
    # In one piece: a small tensor for each latent frame, among the large ones that come and go, would keep the memory
    # between them from being used again (190 kB a latent frame with glibc).
    tokens = [
        torch.empty((plan.latent_frames or 0) - start, config.rows, config.columns, dtype=torch.int64, device=device)
        for plan, start in zip(plans, given, strict=True)
    ]
    filled = [0 for _ in plans]
    rings: list[dict[str, torch.Tensor]] = [{} for _ in plans]

    def ended(clip: int, row: int) -> None:
        if keep_rings:
            rings[clip] = rollout.ring(row)

    left = sum(map(len, tokens))
    for clip, frame_hw in progress(_drawn(rollout, plans, ended), "generating", unit="latent frame", total=left):
        tokens[clip][filled[clip]] = frame_hw
        filled[clip] += 1
    return tokens, rings, rollout


def _drawn(
    rollout: Rollout, plans: Sequence[ClipPlan], ended: Callable[[int, int], None]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Every latent frame (number of its clip, (h, w)) as it comes."""
    clips = list(range(len(rollout.plans)))
    following = iter(range(len(clips), len(plans)))
    while clips:
        yield from zip(clips, rollout.next_frame(), strict=True)
        staying = []
        for row, clip in enumerate(clips):
            if rollout.taken[row] == plans[clip].latent_frames:
                ended(clip, row)
                fresh = next(following, None)
                if fresh is None:
                    continue
                rollout.replace(row, plans[fresh])
                clips[row] = fresh
            staying.append(row)
        if staying and len(staying) < len(clips):
            rollout.keep(staying)
        clips = [clips[row] for row in staying]
