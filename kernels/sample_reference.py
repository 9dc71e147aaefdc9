"""`sample` in plain torch: what the Triton kernels are tested against, and the way to sample on a CPU.

    tokens_B = sample_reference(
        logits_RV, seeds_B, samples_B, positions_B,
        guidance_scale=3.0, temperature=0.9, top_k=50, top_p=0.95, min_p=0.0, noise_BV=None,
    )

A CPU spends most of its time on the noise, which is cheaper for many positions at once; then on the sort of top-p.
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
    """Arguments and result as `sample`."""
    scores_BV = logits_RV.float()
    if guidance_scale != 1:
        conditional_BV, unconditional_BV = scores_BV.chunk(2)
        scores_BV = guide(conditional_BV, unconditional_BV, guidance_scale)
    elif scores_BV is logits_RV:
        scores_BV = scores_BV.clone()
    # From here on in place: on a CPU fresh memory takes longer than what is done in it.
    scores_BV.nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    if temperature == 0:
        return scores_BV.argmax(-1)
    # A product: a division's last bit would depend on the device.
    scores_BV.mul_(1 / temperature)
    if noise_BV is None:
        noise_BV = gumbel_noise(seeds_B, samples_B, positions_B, scores_BV.shape[1])
    tokens_B = (scores_BV + noise_BV).argmax(-1)
    # Where the winner among all tokens is allowed, it is the winner among those that are. To ask takes a CPU a fifth of
    # what finding the allowed ones takes.
    rows_R = (~_surely_allowed(scores_BV, tokens_B, top_k, top_p, min_p)).nonzero()[:, 0]
    if len(rows_R):
        allowed_RV = _only_allowed(scores_BV[rows_R], top_k, top_p, min_p)
        tokens_B[rows_R] = allowed_RV.add_(noise_BV[rows_R]).argmax(-1)
    return tokens_B


def guide(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance on logits: u + s (c - u)."""
    return (conditional - unconditional).mul_(scale).add_(unconditional)


def _surely_allowed(
    scores_BV: torch.Tensor, tokens_B: torch.Tensor, top_k: int | None, top_p: float, min_p: float
) -> torch.Tensor:
    """Whether a token of each row is allowed (B,); under top-p, which takes a sort to know, nobody says so."""
    score_B1 = scores_BV.gather(-1, tokens_B[:, None])
    allowed_B = torch.full_like(tokens_B, top_p == 1, dtype=torch.bool)
    if top_k is not None:
        allowed_B &= (scores_BV > score_B1).sum(-1) < top_k
    if min_p > 0:
        allowed_B &= score_B1[:, 0] >= scores_BV.amax(-1) + math.log(min_p)
    return allowed_B


def _only_allowed(scores_BV: torch.Tensor, top_k: int | None, top_p: float, min_p: float) -> torch.Tensor:
    """The scores, in place, with -inf for tokens that are not allowed."""
    if top_k is not None and top_k < scores_BV.shape[1]:
        scores_BV = _from(scores_BV, scores_BV.topk(top_k).values[:, -1:])
    if top_p < 1:
        ordered_BV = scores_BV.sort(descending=True).values
        probabilities_BV = ordered_BV.softmax(-1)
        betters_BV = probabilities_BV.cumsum(-1) - probabilities_BV
        # The first of equals has the betters of all of them, and it decides. The first of all is always allowed.
        last_B1 = (betters_BV < top_p).sum(-1, keepdim=True).sub_(1).clamp_(min=0)
        scores_BV = _from(scores_BV, ordered_BV.gather(-1, last_B1))
    if min_p > 0:
        scores_BV = _from(scores_BV, scores_BV.amax(-1, keepdim=True) + math.log(min_p))
    return scores_BV


def _from(scores_BV: torch.Tensor, least_B1: torch.Tensor) -> torch.Tensor:
    return scores_BV.masked_fill_(scores_BV < least_B1, -torch.inf)
