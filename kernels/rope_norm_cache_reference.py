"""`rope_norm_cache` in plain torch: the reference for tests of the Triton kernel, and the implementation for CPUs.

q_BLNE, q_prefix_BLNE = rope_norm_cache_reference(
    qkv_BLJE, q_norm_E, k_norm_E, slots_BL, k_cache_BKCE, v_cache_BKCE,
    rotation=rotation, epsilon=1e-6, k_scales_BKC=None, v_scales_BKC=None,
)
"""

import torch

from .norm import rms_norm
from .quantize import quantize
from .rotary import Rotation, rotate


def rope_norm_cache_reference(
    qkv_BLJE: torch.Tensor,
    q_norm_E: torch.Tensor | None,
    k_norm_E: torch.Tensor | None,
    slots_BL: torch.Tensor,
    k_cache_BKCE: torch.Tensor,
    v_cache_BKCE: torch.Tensor,
    *,
    rotation: Rotation,
    epsilon: float,
    k_scales_BKC: torch.Tensor | None,
    v_scales_BKC: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `rope_norm_cache`, with the same arguments and result."""
    B, J = qkv_BLJE.shape[0], qkv_BLJE.shape[2]
    K = k_cache_BKCE.shape[1]
    N = J - 2 * K
    exact = torch.promote_types(qkv_BLJE.dtype, torch.float32)
    qk_BLJE, v_BLKE = qkv_BLJE.to(exact).split((N + K, K), 2)
    # Queries and keys are normalised and rotated together, in half as many operations.
    if q_norm_E is not None and k_norm_E is not None:
        norm_JE = torch.cat((q_norm_E.expand(N, -1), k_norm_E.expand(K, -1))).to(exact)
        qk_BLJE = rms_norm(qk_BLJE, norm_JE, epsilon)
    q_rotated_BLNE, k_BLKE = rotate(qk_BLJE, rotation).split((N, K), 2)
    indices = (torch.arange(B, device=slots_BL.device)[:, None], slots_BL)
    _write(k_BLKE, k_cache_BKCE, k_scales_BKC, indices)
    _write(v_BLKE, v_cache_BKCE, v_scales_BKC, indices)
    return q_rotated_BLNE.to(qkv_BLJE.dtype), qk_BLJE[:, :, :N].to(qkv_BLJE.dtype)


def _write(
    x_BLKE: torch.Tensor,
    cache_BKCE: torch.Tensor,
    scales_BKC: torch.Tensor | None,
    indices: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """Write heads to their (row, slot) indices of a cache, quantized if the cache has scales."""
    if scales_BKC is not None:
        x_BLKE, scales_BLK = quantize(x_BLKE)
        scales_BKC.transpose(1, 2).index_put_(indices, scales_BLK)
    cache_BKCE.transpose(1, 2).index_put_(indices, x_BLKE.to(cache_BKCE.dtype))
