"""How close a drawn token was to being another one: rounding on another CPU must not turn any.

    with drawn() as draws:
        videos = case.run(models, folder)
    draws.smallest(positions=140)

The op `sample` is watched in whichever modules have it. What it is told says all that a token depends on: the scores,
the noise and the rules. They are applied again here, the plain way.
"""

import functools
import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch

from reelm.kernels.noise import gumbel_noise
from reelm.kernels.sample import sample

LEAST = 1e-3  # some ten times what roundings change of a score here


class Draws:
    """The gap of every draw, by (seed, sample, position); a later draw of the same position takes the earlier's place.

    Jacobi decoding draws a position again until all before it is right: the last draw is the one that stays.
    """

    def __init__(self) -> None:
        self.gaps: dict[tuple[int, int, int], float] = {}

    def smallest(self, positions: int) -> float:
        """The smallest gap among the first so many positions; those behind were drafts that no clip kept."""
        kept = [gap for (_, _, position), gap in self.gaps.items() if position < positions]
        assert kept, "no draw was seen: does what draws call kernels.sample.sample?"
        return min(kept)


@contextmanager
def drawn() -> Iterator[Draws]:
    """Watch all draws inside."""
    draws = Draws()

    @functools.wraps(sample)
    def watching(logits_RV, seeds_B, samples_B, positions_B, **options):
        keys = zip(seeds_B.tolist(), samples_B.tolist(), positions_B.tolist(), strict=True)
        draws.gaps.update(zip(keys, gaps(logits_RV, seeds_B, samples_B, positions_B, **options), strict=True))
        return sample(logits_RV, seeds_B, samples_B, positions_B, **options)

    with ExitStack() as patches:
        for name, module in list(sys.modules.items()):
            if name.startswith("reelm.") and name != __name__ and getattr(module, "sample", None) is sample:
                patches.enter_context(patch.object(module, "sample", watching))
        yield draws


def gaps(
    logits_RV, seeds_B, samples_B, positions_B,
    *, guidance_scale=1.0, temperature=1.0, top_k=None, top_p=1.0, min_p=0.0, noise_BV=None, backend=None,
):  # fmt: skip
    """For each row, by how much its scores may change before another token can win. Arguments as `sample`.

    Either a second token passes the winner, or a rule that is nearly met lets in a better one, or shuts out the winner.
    """
    scores_BV = logits_RV.double()
    if guidance_scale != 1:
        conditional_BV, unconditional_BV = scores_BV.chunk(2)
        scores_BV = unconditional_BV + guidance_scale * (conditional_BV - unconditional_BV)
    if temperature > 0:
        scores_BV = scores_BV / temperature
    noise_BV = gumbel_noise(seeds_B, samples_B, positions_B, scores_BV.shape[1]) if noise_BV is None else noise_BV
    noisy_BV = scores_BV + noise_BV if temperature > 0 else scores_BV
    # How far each token is from being shut out (below 0: from being let in), by the rule that is nearest to it.
    room_BV = torch.full_like(scores_BV, math.inf)
    if temperature > 0:
        if top_k is not None and top_k < scores_BV.shape[1]:
            best = scores_BV.topk(top_k + 1).values
            last, next_one = best[:, -2:-1], best[:, -1:]
            room_BV = torch.where(scores_BV >= last, scores_BV - next_one, scores_BV - last)
        if top_p < 1:
            shares_BV = scores_BV.masked_fill(room_BV < 0, -math.inf).softmax(-1)
            better_BVV = scores_BV[:, None, :] > scores_BV[:, :, None]
            mass_BV = (better_BVV * shares_BV[:, None, :]).sum(-1)
            # The best is allowed whatever top-p is.
            room_BV = room_BV.minimum(torch.where(mass_BV == 0, math.inf, top_p - mass_BV))
        if min_p > 0:
            room_BV = room_BV.minimum(scores_BV - scores_BV.amax(-1, keepdim=True) - math.log(min_p))
    allowed_BV = noisy_BV.masked_fill(room_BV <= 0, -math.inf)
    best_B2 = allowed_BV.topk(2).values
    rivals_BV = noisy_BV >= best_B2[:, :1] - LEAST
    edge_B = room_BV.abs().masked_fill(~rivals_BV, math.inf).amin(-1)
    return torch.minimum(best_B2[:, 0] - best_B2[:, 1], edge_B).tolist()
