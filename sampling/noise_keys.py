"""Which noise a clip is drawn with: named by its key, made by kernels/noise.py.

seeds_B, samples_B = key_tensors([NoiseKey(7), NoiseKey(7, sample=1)], device)
noise_BLV = NoiseAhead(vocab_size, device).take(keys, positions, L)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..kernels.noise import gumbel_noise

AT_ONCE = 2**18  # numbers of a clip that are drawn together


@dataclass(frozen=True)
class NoiseKey:
    """Names the noise of one clip: the user's seed, and which of the samples of one prompt it is."""

    seed: int
    sample: int = 0


def key_tensors(keys: Sequence[NoiseKey], device: torch.device) -> torch.Tensor:
    """The seeds and the samples (2, B) int64 of these clips."""
    return torch.tensor([[key.seed for key in keys], [key.sample for key in keys]], dtype=torch.int64, device=device)


class NoiseAhead:
    """The noise of the next positions, drawn some hundred positions at a time.

    Together they take a quarter of the time on a CPU, and a position that is looked at in several passes has its noise
    drawn once. The numbers are those of `gumbel_noise`.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.vocab_size, self.device = vocab_size, device
        self.block = max(1, min(256, AT_ONCE // vocab_size))
        self._blocks: dict[tuple[NoiseKey, int], torch.Tensor] = {}  # (key, number of the block) -> (block, V)

    def take(self, keys: Sequence[NoiseKey], positions: Sequence[int], count: int) -> torch.Tensor:
        """The noise (B, L, V) of L = `count` positions of each clip from its own position on."""
        wanted = [
            [(key, block) for block in range(start // self.block, (start + count - 1) // self.block + 1)]
            for key, start in zip(keys, positions, strict=True)
        ]
        self._draw(list(dict.fromkeys(name for names in wanted for name in names)))
        rows = []
        for names, start in zip(wanted, positions, strict=True):
            parts = [self._blocks[name] for name in names]
            rows.append((parts[0] if len(parts) == 1 else torch.cat(parts))[start % self.block :][:count])
        return rows[0][None] if len(rows) == 1 else torch.stack(rows)

    def _draw(self, names: list[tuple[NoiseKey, int]]) -> None:
        """Have these blocks, and no others: what is behind is not asked for again."""
        missing = [name for name in names if name not in self._blocks]
        blocks = {name: self._blocks[name] for name in names if name in self._blocks}
        if missing:
            seeds_M, samples_M = key_tensors([key for key, _ in missing], self.device)
            starts_M1 = torch.tensor([[block * self.block] for _, block in missing], device=self.device)
            positions_ML = starts_M1 + torch.arange(self.block, device=self.device)
            noise_MLV = gumbel_noise(seeds_M[:, None], samples_M[:, None], positions_ML, self.vocab_size)
            blocks |= dict(zip(missing, noise_MLV, strict=True))
        self._blocks = blocks
