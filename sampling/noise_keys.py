"""Noise keys: each names the noise of one clip, which kernels/noise.py computes.

seeds_B, samples_B = key_tensors([NoiseKey(7), NoiseKey(7, sample=1)], device)
noise_BLV = NoiseBuffer(vocab_size, device).take(keys, positions, L)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..kernels.noise import gumbel_noise

BLOCK_NUMBERS = 2**18  # random numbers of a clip that are drawn together


@dataclass(frozen=True)
class NoiseKey:
    """The name of the noise of one clip.

    Attributes:
        seed: The user's seed.
        sample: The index of the clip among the samples of one prompt.
    """

    seed: int
    sample: int = 0


def key_tensors(keys: Sequence[NoiseKey], device: torch.device) -> torch.Tensor:
    """Return the seeds and the sample indices (2, B) int64 of these keys."""
    return torch.tensor([[key.seed for key in keys], [key.sample for key in keys]], dtype=torch.int64, device=device)


class NoiseBuffer:
    """The noise of the next positions, computed in blocks of up to 256 positions.

    A block takes a quarter of the time that its positions take one by one on a CPU, and the noise of a position that
    several passes look at is computed once. The numbers are those of `gumbel_noise`.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.vocab_size, self.device = vocab_size, device
        self.block = max(1, min(256, BLOCK_NUMBERS // vocab_size))
        self._blocks: dict[tuple[NoiseKey, int], torch.Tensor] = {}  # (key, index of the block) -> (block, V)

    def take(self, keys: Sequence[NoiseKey], positions: Sequence[int], count: int) -> torch.Tensor:
        """Return the noise (B, L, V) of L = `count` positions of each clip, from the clip's own position on."""
        wanted = [
            [(key, block) for block in range(start // self.block, (start + count - 1) // self.block + 1)]
            for key, start in zip(keys, positions, strict=True)
        ]
        self._compute(list(dict.fromkeys(name for names in wanted for name in names)))
        rows = []
        for names, start in zip(wanted, positions, strict=True):
            parts = [self._blocks[name] for name in names]
            rows.append((parts[0] if len(parts) == 1 else torch.cat(parts))[start % self.block :][:count])
        return rows[0][None] if len(rows) == 1 else torch.stack(rows)

    def _compute(self, names: list[tuple[NoiseKey, int]]) -> None:
        """Hold these blocks and no others: the blocks of earlier positions are not needed again."""
        missing = [name for name in names if name not in self._blocks]
        blocks = {name: self._blocks[name] for name in names if name in self._blocks}
        if missing:
            seeds_M, samples_M = key_tensors([key for key, _ in missing], self.device)
            starts_M1 = torch.tensor([[block * self.block] for _, block in missing], device=self.device)
            positions_ML = starts_M1 + torch.arange(self.block, device=self.device)
            noise_MLV = gumbel_noise(seeds_M[:, None], samples_M[:, None], positions_ML, self.vocab_size)
            blocks |= dict(zip(missing, noise_MLV, strict=True))
        self._blocks = blocks
