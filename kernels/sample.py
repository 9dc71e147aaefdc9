"""Sampling of the next token of each row from logits, with guidance, temperature, top-k, top-p and min-p.

    tokens_B = sample(
        logits_RV, seeds_B, samples_B, positions_B,
        guidance_scale=3.0, temperature=0.9, top_k=50, top_p=0.95,
    )

The noise is a function of (seed, sample, position, vocabulary entry) only (noise.py), so that a token does not depend
on the rest of the batch. The host reads no tensor, so that the Triton kernels can be captured in a CUDA graph.
"""

import torch

from ..core.errors import require
from .backend import FLOATS, pick_backend
from .sample_cpu import leaves_few, sample_cpu
from .sample_reference import centre, sample_reference

# Below this temperature scores are so large that float32 would round away noise: they are centred first.
LOW_TEMPERATURE = 0.1


@torch.no_grad()
def sample(
    logits_RV: torch.Tensor,
    seeds_B: torch.Tensor,
    samples_B: torch.Tensor,
    positions_B: torch.Tensor,
    *,
    guidance_scale: float = 1.0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    noise_BV: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Draw a token from softmax(scores) over the allowed tokens by the Gumbel-max trick.

    The scores are u + s (c - u) of the conditional and unconditional logits (classifier-free guidance: Ho and Salimans
    2022, arXiv 2207.12598), in float32, times 1 / temperature. Below LOW_TEMPERATURE the highest one of each row is
    subtracted first, so that tokens with equal logits are drawn equally often. A token is allowed where all of these
    hold:

    - top-k: fewer than k tokens have a higher score;
    - top-p: the tokens with a higher score have less than `top_p` of the total probability of the tokens that top-k
      allows (Holtzman et al. 2020, arXiv 1904.09751);
    - min-p: its probability is at least `min_p` times the highest one (Nguyen et al. 2024, arXiv 2407.01082).

    The token with the highest score is always allowed. A token with a score of -inf is never drawn, nor one with NaN,
    which guidance yields for two logits of -inf. Of tokens with equal results, with or without noise, the lowest id is
    drawn; a row without any score above -inf gives token 0.

    Args:
        logits_RV: The logits, float32, bfloat16 or float16. R = B; under guidance R = 2 B, the conditional rows first.
        seeds_B, samples_B, positions_B: The keys of each row's noise, int64; see `gumbel_noise`.
        guidance_scale: The scale s; 1 means no guidance.
        temperature: The temperature; 0 selects the token with the highest score.
        top_k: The k of top-k; None, or any number from V on, allows all tokens.
        top_p: The probability of top-p; 1 allows all tokens.
        min_p: The ratio of min-p; 0 allows all tokens.
        noise_BV: The noise of these keys, if the caller has already computed it with `gumbel_noise`. On a CPU computing
            it for many positions at once takes a quarter of the time; where `leaves_few` holds, it is not needed.
        backend: The implementation, "reference" or "triton"; by default the choice of `pick_backend`, or `sample_cpu`
            where `leaves_few` holds.

    Returns:
        tokens_B, int64.

    Raises:
        ReelmError: The shapes, dtypes or devices do not match, or an option is out of range.
    """
    check_settings(guidance_scale, temperature, top_k, top_p, min_p)
    _check_tensors(logits_RV, {"seeds_B": seeds_B, "samples_B": samples_B, "positions_B": positions_B}, noise_BV,
                   guided=guidance_scale != 1)  # fmt: skip
    if top_k is not None and top_k >= logits_RV.shape[1]:
        top_k = None
    if 0 < temperature < LOW_TEMPERATURE:
        logits_RV, guidance_scale = centre(logits_RV, guidance_scale), 1.0
    run = sample_reference
    if pick_backend("sample", backend, logits_RV) == "triton":
        # Importing reelm must not import triton.
        from .sample_triton import sample_triton as run
    elif (
        backend is None and noise_BV is None and temperature > 0 and top_k is not None
        and leaves_few(top_k, top_p, logits_RV.shape[1], logits_RV.device.type)
    ):  # fmt: skip
        return sample_cpu(
            logits_RV, seeds_B, samples_B, positions_B,
            guidance_scale=guidance_scale, temperature=temperature, top_k=top_k, min_p=min_p,
        )  # fmt: skip
    return run(
        logits_RV, seeds_B, samples_B, positions_B,
        guidance_scale=guidance_scale, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        noise_BV=noise_BV,
    )  # fmt: skip


def check_settings(guidance_scale: float, temperature: float, top_k: int | None, top_p: float, min_p: float) -> None:
    """Check the options of `sample`, which explains them.

    Raises:
        ReelmError: An option is out of range.
    """
    require(0 <= guidance_scale <= 100, "guidance_scale", "must be between 0 and 100", guidance_scale)
    valid = temperature == 0 or 1e-6 <= temperature <= 100  # below 1e-6, scores would overflow float32
    require(valid, "temperature", "must be 0 or between 1e-6 and 100", temperature)
    valid = top_k is None or (isinstance(top_k, int) and top_k >= 1)
    require(valid, "top_k", "must be a whole number of at least 1, or None", top_k)
    require(0 < top_p <= 1, "top_p", "must be above 0 and at most 1", top_p)
    require(0 <= min_p <= 1, "min_p", "must be between 0 and 1", min_p)


def _check_tensors(
    logits_RV: torch.Tensor, keys: dict[str, torch.Tensor], noise_BV: torch.Tensor | None, *, guided: bool
) -> None:
    """Check the shapes, dtypes and devices of the tensors of `sample`."""
    require(logits_RV.ndim == 2, "logits_RV", "must have 2 dimensions", tuple(logits_RV.shape))
    require(logits_RV.dtype in FLOATS, "logits_RV", "must be float32, bfloat16 or float16", logits_RV.dtype)
    require(logits_RV.shape[1] >= 2, "logits_RV", "must have at least 2 entries a row", logits_RV.shape[1])
    rows = logits_RV.shape[0]
    if guided:
        require(rows % 2 == 0, "logits_RV", "must have an even number of rows under guidance", rows)
        rows //= 2
    for name, numbers_B in keys.items():
        require(numbers_B.shape == (rows,), name, f"must have shape {(rows,)}", tuple(numbers_B.shape))
        require(numbers_B.dtype == torch.int64, name, "must be int64", numbers_B.dtype)
        same = numbers_B.device == logits_RV.device
        require(same, name, f"must be on {logits_RV.device} as logits_RV is", numbers_B.device)
    if noise_BV is not None:
        shape = (rows, logits_RV.shape[1])
        require(noise_BV.shape == shape, "noise_BV", f"must have shape {shape}", tuple(noise_BV.shape))
        require(noise_BV.dtype == torch.float32, "noise_BV", "must be float32", noise_BV.dtype)
        same = noise_BV.device == logits_RV.device
        require(same, "noise_BV", f"must be on {logits_RV.device} as logits_RV is", noise_BV.device)
