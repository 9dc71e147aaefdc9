"""A layer's way from qkv through the cache to attention's output, in as few operations as a float32 CPU step allows.

    attend = lean_attend(cache, slots_BL, rotation, mask_BLC)
    out_BLNE = attend(layer, attention_module, qkv_BLHE)

A decoding step is some hundred small operations, so that a third of its time went into what surrounds them: checks and
tables made anew in every layer. What is the same in all layers is made once here. A cache of int8 goes by the ops.
`rope_norm_cache` and `decode_attention` are the definition; a test holds this against them.

All slots are attended, those too that nothing has been written to yet: with fewer, the last bits of a product would
depend on how far the block and the other rows reach.
"""

from collections.abc import Callable
from typing import Any

import torch

from ..kernels.decode_attention_reference import product
from ..kernels.norm import rms_norm
from ..kernels.rotary import Rotation
from .cache import RingCache


def can_be_lean(cache: RingCache) -> bool:
    """Whether a step on this cache is one of float32 on a CPU, outside a compiler."""
    here = cache.keys.device.type == "cpu" and cache.keys.dtype == torch.float32
    return here and not torch.compiler.is_compiling()


def lean_attend(
    cache: RingCache, slots_BL: torch.Tensor, rotation: Rotation, mask_BLC: torch.Tensor
) -> Callable[[int, Any, torch.Tensor], torch.Tensor]:
    """What a step does between the two projections of attention, for every layer.

    Args:
        cache: whose slots are written and read.
        slots_BL: of the tokens of this step.
        rotation: of their queries and keys.
        mask_BLC: `slot_mask`.
    """
    config = cache.config
    (B, L, C), N, K, E, P = mask_BLC.shape, config.heads, config.kv_heads, config.head_dim, config.prefix
    G = N // K
    cos, sin = rotation
    cos_BL1E, sin_BL1E = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
    mask_BKMC = mask_BLC[:, None, None].expand(B, K, G, L, C).reshape(B, K, G * L, C)
    place = (torch.arange(B)[:, None], slots_BL)

    # The query heads of a key/value head go into the rows of one matrix: no key or value is repeated.
    def rows(q_BLNE: torch.Tensor) -> torch.Tensor:
        return q_BLNE.view(B, L, K, G, E).permute(0, 2, 3, 1, 4).reshape(B, K, G * L, E)

    def attend(layer: int, module: Any, qkv_BLHE: torch.Tensor) -> torch.Tensor:
        keys_BKCE, values_BKCE = cache.keys[layer], cache.values[layer]
        norm_HE = torch.cat((module.q_norm.expand(N, -1), module.k_norm.expand(K, -1)))
        qk_BLHE = rms_norm(qkv_BLHE[:, :, : N + K], norm_HE, 1e-6)
        first, second = qk_BLHE.chunk(2, -1)
        rotated_BLHE = torch.addcmul(qk_BLHE * cos_BL1E, torch.cat((second, first), -1), sin_BL1E)
        keys_BKCE.transpose(1, 2).index_put_(place, rotated_BLHE[:, :, N:])
        values_BKCE.transpose(1, 2).index_put_(place, qkv_BLHE[:, :, N + K :])
        keys_BKEC = keys_BKCE.transpose(2, 3)
        q_BKME, q_prefix_BKME = rows(rotated_BLHE[:, :, :N].contiguous()), rows(qk_BLHE[:, :, :N].contiguous())
        scores = torch.cat((product(q_prefix_BKME, keys_BKEC[..., :P]), product(q_BKME, keys_BKEC[..., P:])), -1)
        weights_BKMC = torch.add(mask_BKMC, scores, alpha=E**-0.5).softmax(-1)
        return product(weights_BKMC, values_BKCE).reshape(B, N, L, E).transpose(1, 2)

    return attend
