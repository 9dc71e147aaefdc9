"""`sample` in plain torch: the reference for tests of the other implementations, and the one for CPUs unless few tokens
are allowed (sample_cpu.py).

    tokens_B = sample_reference(
        logits_RV, seeds_B, samples_B, positions_B,
        guidance_scale=3.0, temperature=0.9, top_k=50, top_p=0.95, min_p=0.0, noise_BV=None,
    )

On a CPU the noise takes most of the time, and is cheaper for many positions at once; next is the sort of top-p.
"""

import math

import torch

from .noise import gumbel_noise

ROUNDS = 8  # of looking for a token that top-p allows
MARGIN = 1e-4  # of a sum of probabilities in float32


def sample_reference(
    logits_RV: torch.Tensor,
    seeds_B: torch.Tensor,
    samples_B: torch.Tensor,
    positions_B: torch.Tensor,
    *,
    guidance_scale: float,
    temperature: float,
    top_k: int | None,
    top_p: float,
    min_p: float,
    noise_BV: torch.Tensor | None,
) -> torch.Tensor:
    """Compute `sample`, with the same arguments and result."""
    scores_BV = sampling_scores(logits_RV, guidance_scale, temperature)
    if temperature == 0:
        return scores_BV.argmax(-1)
    if noise_BV is None:
        noise_BV = gumbel_noise(seeds_B, samples_B, positions_B, scores_BV.shape[1])
    totals_BV = scores_BV + noise_BV
    tokens_B = totals_BV.argmax(-1)
    # If the best of all tokens is allowed, it is the best of the allowed ones. On a CPU checking one token takes a
    # fifth of the time of finding all allowed ones.
    allowed_B = _surely_allowed(scores_BV, tokens_B, top_k, min_p)
    if top_p < 1:
        by_top_p = scores_BV.device.type == "cpu" and top_k is None and min_p == 0 and not torch.compiler.is_compiling()
        allowed_B = _best_in_nucleus(scores_BV, totals_BV, tokens_B, top_p) if by_top_p else allowed_B & False
    rows_R = (~allowed_B).nonzero()[:, 0]
    if len(rows_R):
        allowed_RV = _mask_disallowed(scores_BV[rows_R], top_k, top_p, min_p)
        tokens_B[rows_R] = allowed_RV.add_(noise_BV[rows_R]).argmax(-1)
    return tokens_B


def sampling_scores(logits_RV: torch.Tensor, guidance_scale: float, temperature: float) -> torch.Tensor:
    """Return the guided logits (B, V) float32, NaN as -inf, times 1 / temperature unless that is 0, in new memory."""
    scores_BV = logits_RV.float()
    if guidance_scale != 1:
        conditional_BV, unconditional_BV = scores_BV.chunk(2)
        scores_BV = guide(conditional_BV, unconditional_BV, guidance_scale)
    # On a CPU allocating memory takes longer than the operations, so the next one is in place where the memory is new.
    new_BV = torch.empty_like(scores_BV) if scores_BV is logits_RV else scores_BV
    torch.nan_to_num(scores_BV, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf, out=new_BV)
    # It is a product, since the last bit of a division would depend on the device.
    return new_BV if temperature == 0 else new_BV.mul_(1 / temperature)


def guide(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Return the logits u + s (c - u) of classifier-free guidance."""
    return (conditional - unconditional).mul_(scale).add_(unconditional)


def centre(logits_RV: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """Return the guided logits (B, V) float32 of each row less the highest one; NaN becomes -inf."""
    guided_BV = logits_RV.float()
    if guidance_scale != 1:
        conditional_BV, unconditional_BV = guided_BV.chunk(2)
        guided_BV = guide(conditional_BV, unconditional_BV, guidance_scale)
    guided_BV = guided_BV.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    best_B1 = guided_BV.amax(-1, keepdim=True)
    return guided_BV - best_B1.where(best_B1.isfinite(), 0)


def _surely_allowed(scores_BV: torch.Tensor, tokens_B: torch.Tensor, top_k: int | None, min_p: float) -> torch.Tensor:
    """Return whether a token of each row is allowed (B,) by top-k and min-p."""
    score_B1 = scores_BV.gather(-1, tokens_B[:, None])
    allowed_B = torch.ones_like(tokens_B, dtype=torch.bool)
    if top_k is not None:
        allowed_B &= (scores_BV > score_B1).sum(-1) < top_k
    if min_p > 0:
        allowed_B &= score_B1[:, 0] >= scores_BV.amax(-1) + math.log(min_p)
    return allowed_B


def _best_in_nucleus(
    scores_BV: torch.Tensor, totals_BV: torch.Tensor, tokens_B: torch.Tensor, top_p: float
) -> torch.Tensor:
    """Put the best tokens that top-p allows into `tokens_B`; return for which rows that is certain (B,).

    A token is allowed if the higher ones have less than `top_p` of the probability: a sum, where finding all allowed
    ones takes a sort. If it is not, neither is any that is no higher, and the best of the others is next. A token is
    refused with a probability of 1 - top_p, so that few rounds are needed. Rows with a sum so near to `top_p` that it
    depends on the rounding are left to the sort, as are those that take many rounds.

    Args:
        scores_BV: The scores.
        totals_BV: The scores with their noise, which are overwritten.
        tokens_B: The best tokens of all, which are overwritten.
        top_p: The probability.
    """
    certain_B = torch.zeros_like(tokens_B, dtype=torch.bool)
    rows_R, probabilities_BV = torch.arange(len(tokens_B)), scores_BV.softmax(-1)
    for _ in range(ROUNDS):
        scores_RV, totals_RV = scores_BV[rows_R], totals_BV[rows_R]
        higher_RV = scores_RV > scores_RV.gather(-1, tokens_B[rows_R, None])
        mass_R = torch.linalg.vecdot(probabilities_BV[rows_R], higher_RV.float())
        certain_B[rows_R] = mass_R < top_p - MARGIN
        refused_R = mass_R > top_p + MARGIN
        rows_R = rows_R[refused_R]
        if not len(rows_R):
            break
        totals_BV[rows_R] = totals_RV[refused_R].masked_fill_(~higher_RV[refused_R], -torch.inf)
        tokens_B[rows_R] = totals_BV[rows_R].argmax(-1)
    return certain_B


def _mask_disallowed(scores_BV: torch.Tensor, top_k: int | None, top_p: float, min_p: float) -> torch.Tensor:
    """Set the scores of tokens that are not allowed to -inf, in place."""
    if top_k is not None and top_k < scores_BV.shape[1]:
        scores_BV = _mask_below(scores_BV, scores_BV.topk(top_k).values[:, -1:])
    if top_p < 1:
        ordered_BV = scores_BV.sort(descending=True).values
        probabilities_BV = ordered_BV.softmax(-1)
        before_BV = probabilities_BV.cumsum(-1) - probabilities_BV
        # Of equal scores the first one decides, since only higher ones come before it. The best is always allowed.
        last_B1 = (before_BV < top_p).sum(-1, keepdim=True).sub_(1).clamp_(min=0)
        scores_BV = _mask_below(scores_BV, ordered_BV.gather(-1, last_B1))
    if min_p > 0:
        scores_BV = _mask_below(scores_BV, scores_BV.amax(-1, keepdim=True) + math.log(min_p))
    return scores_BV


def _mask_below(scores_BV: torch.Tensor, least_B1: torch.Tensor) -> torch.Tensor:
    return scores_BV.masked_fill_(scores_BV < least_B1, -torch.inf)
