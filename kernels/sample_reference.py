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
    tokens_B = (scores_BV + noise_BV).argmax(-1)
    # If the best of all tokens is allowed, it is the best of the allowed ones. On a CPU checking one token takes a
    # fifth of the time of finding all allowed ones.
    rows_R = (~_surely_allowed(scores_BV, tokens_B, top_k, top_p, min_p)).nonzero()[:, 0]
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


def _surely_allowed(
    scores_BV: torch.Tensor, tokens_B: torch.Tensor, top_k: int | None, top_p: float, min_p: float
) -> torch.Tensor:
    """Return whether a token of each row is known to be allowed (B,); never under top-p, which would need a sort."""
    score_B1 = scores_BV.gather(-1, tokens_B[:, None])
    allowed_B = torch.full_like(tokens_B, top_p == 1, dtype=torch.bool)
    if top_k is not None:
        allowed_B &= (scores_BV > score_B1).sum(-1) < top_k
    if min_p > 0:
        allowed_B &= score_B1[:, 0] >= scores_BV.amax(-1) + math.log(min_p)
    return allowed_B


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
