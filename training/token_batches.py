"""The order in which a training reads the clips of token shards: a function of the step and the seed alone.

order = ClipOrder(read_shards(data), steps=1000, batch_tokens=5120, seed=0)
shards, clips = order.clips(step)                    # the set of a step, and the numbers of its clips in it
shards.tokens_Bthw[clips]
"""

import numpy as np

from ..data.token_shards import Shards


class ClipOrder:
    """The clips of each step, all of one set: each draws a set in proportion to its tokens, and reads on in it.

    The clips of a set are read in a seeded permutation, then in another one.

    Attributes:
        sets: The sets of shards; the clips of each have one length.
    """

    def __init__(self, sets: list[Shards], steps: int, batch_tokens: int, seed: int) -> None:
        self.sets, self._batch_tokens, self._seed = sets, batch_tokens, seed
        weights = np.array([shards.tokens_Bthw.numel() for shards in sets], dtype=np.float64)
        # The set of each step is drawn in advance, so that a step knows how many steps before it used the same set.
        self._choice = np.random.default_rng([seed, 1]).choice(len(sets), steps, p=weights / weights.sum())
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def _order(self, which: int, epoch: int) -> np.ndarray:
        if (which, epoch) not in self._orders:
            rng = np.random.default_rng([self._seed, 2, which, epoch])
            self._orders[which, epoch] = rng.permutation(len(self.sets[which].captions))
        return self._orders[which, epoch]

    def size(self, shards: Shards) -> int:
        """Return the number of clips of a step that has clips of this set."""
        return max(1, self._batch_tokens // shards.tokens_Bthw[0].numel())

    def shape(self, step: int) -> tuple[int, ...]:
        """Return the shape (B, t, h, w) of the video tokens of a step."""
        shards = self.sets[int(self._choice[step])]
        return self.size(shards), *shards.tokens_Bthw.shape[1:]

    def clips(self, step: int) -> tuple[Shards, list[int]]:
        """Return the set of a step, and the numbers of its clips in the set."""
        which = int(self._choice[step])
        shards = self.sets[which]
        size, count = self.size(shards), len(shards.captions)
        first = int((self._choice[:step] == which).sum()) * size
        return shards, [int(self._order(which, n // count)[n % count]) for n in range(first, first + size)]

    def captions(self, step: int, drop: float) -> list[str]:
        """Return a caption of each clip of a step, drawn among its captions; empty ones for a share `drop` of them."""
        (shards, clips), rng = self.clips(step), np.random.default_rng([self._seed, 3, step])
        return ["" if rng.random() < drop else shards.captions[i][rng.integers(len(shards.captions[i]))] for i in clips]

    def name(self, step: int) -> str:
        """Return the clips of a step by their numbers in the data, and their lengths."""
        shards, clips = self.clips(step)
        numbers, frames = ", ".join(map(str, clips)), shards.tokens_Bthw.shape[1]
        return f"clips {numbers} of those of {frames} latent frames, in the order of the shards"
