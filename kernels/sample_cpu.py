"""`sample` for CPUs where top-k leaves few tokens: the noise of these alone, in place of that of the whole vocabulary.

    tokens_B = sample_cpu(
        logits_RV, seeds_B, samples_B, positions_B,
        guidance_scale=3.0, temperature=0.7, top_k=50, min_p=0.0,
    )

The result is that of `sample_reference`. There the noise of 4,096 entries takes longer than all else; that of 50 is a
hundred operations on a few numbers.
"""

import math

import numpy as np
import torch

from .noise import noise_of_entries
from .sample_reference import sampling_scores

FEW = 16  # the noise of single entries pays where the vocabulary is so many times larger than their number


def leaves_few(top_k: int | None, top_p: float, vocab_size: int, device: str) -> bool:
    """Return whether `sample_cpu` serves these rules on this device and is faster; top-p sorts in any case."""
    return device == "cpu" and top_k is not None and FEW * top_k <= vocab_size and top_p == 1


def sample_cpu(
    logits_RV: torch.Tensor,
    seeds_B: torch.Tensor,
    samples_B: torch.Tensor,
    positions_B: torch.Tensor,
    *,
    guidance_scale: float,
    temperature: float,
    top_k: int,
    min_p: float,
) -> torch.Tensor:
    """Compute `sample` at a temperature above 0, with the same arguments and result."""
    scores_BV = sampling_scores(logits_RV, guidance_scale, temperature)
    # The k-th of the maxima of 4 k groups is at most the k-th score, and few scores are between them. Finding these
    # takes an eighth of the time of partitioning whole rows.
    groups = 4 * top_k
    best_BG = scores_BV[:, : scores_BV.shape[1] // groups * groups].unflatten(1, (-1, groups)).amax(1)
    least_B1 = _kth_highest(best_BG.numpy(), top_k)
    if min_p > 0:
        least_B1 = np.maximum(least_B1, scores_BV.amax(-1, keepdim=True).numpy() + np.float32(math.log(min_p)))
    rows_M, entries_M = _at_least(scores_BV.numpy(), least_B1, top_k)
    chosen_M = torch.from_numpy(rows_M)
    noise_M = noise_of_entries(
        seeds_B[chosen_M], samples_B[chosen_M], positions_B[chosen_M], torch.from_numpy(entries_M)
    )
    totals_M = scores_BV.numpy()[rows_M, entries_M] + noise_M.numpy()
    best_B = np.maximum.reduceat(totals_M, rows_M.searchsorted(np.arange(len(scores_BV))))
    (winners_M,) = (totals_M == best_B[rows_M]).nonzero()
    tokens_B = np.empty(len(scores_BV), dtype=np.int64)
    tokens_B[rows_M[winners_M][::-1]] = entries_M[winners_M][::-1]  # the lowest of equal ones is written last
    return torch.from_numpy(tokens_B)


def _at_least(scores_BV: np.ndarray, least_B1: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and entries (M,) of the k highest scores of each row that are at least `least_B1` and above -inf.

    Equal scores at the border all stay. A row without any score above -inf gives entry 0.
    """
    candidates_BV = (scores_BV >= least_B1) & (scores_BV > -np.inf)
    candidates_BV[:, 0] |= ~candidates_BV.any(-1)
    # numpy finds the places in one axis in a seventh of the time that it takes in two.
    rows_M, entries_M = np.divmod(np.flatnonzero(candidates_BV), scores_BV.shape[1])
    scores_M, first_B = scores_BV[rows_M, entries_M], rows_M.searchsorted(np.arange(len(scores_BV)))
    index_M = np.arange(len(rows_M)) - first_B[rows_M]
    packed_BX = np.full((len(scores_BV), max(top_k, 1 + index_M.max())), -np.inf, dtype=np.float32)
    packed_BX[rows_M, index_M] = scores_M
    kept_M = scores_M >= _kth_highest(packed_BX, top_k)[rows_M, 0]
    return rows_M[kept_M], entries_M[kept_M]


def _kth_highest(scores_BX: np.ndarray, k: int) -> np.ndarray:
    """Return the k-th highest of at least k scores of each row (B, 1)."""
    border = scores_BX.shape[1] - k
    return np.partition(scores_BX, border)[:, border : border + 1]
