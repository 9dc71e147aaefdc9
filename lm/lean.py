"""A layer's way from qkv through the cache to attention's output, in as few operations as a float32 CPU step allows.

    attend = lean_attend(cache, positions_BL, rotation, mask_BLC[:, :, : slots_in_use(cache, positions_BL)])
    out_BLNE = attend(layer, attention_module, qkv_BLHE)

A decoding step is some hundred small operations, so that a third of its time went into what surrounds them: checks and
tables made anew in every layer, and cache slots that nothing has been written to yet. What is the same in all layers is
made once here. A cache of int8 goes by the ops. `rope_norm_cache` and `decode_attention` are the definition; a test
holds this against them.
"""

from collections.abc import Callable
from typing import Any

import torch

from ..kernels.backend import pick_backend
from ..kernels.decode_attention_reference import product
from ..kernels.norm import rms_norm
from ..kernels.rotary import Rotation
from .cache import RingCache


def can_be_lean(cache: RingCache) -> bool:
    """Whether a step on this cache is one of float32 on a CPU, by plain torch."""
    keys = cache.keys
    plain = keys.device.type == "cpu" and keys.dtype == torch.float32 and not torch.compiler.is_compiling()
    return plain and pick_backend("decode_attention", None, keys) == "reference"


def slots_in_use(cache: RingCache, positions_BL: torch.Tensor) -> int:
    """How many of the first slots hold all there is, once the keys and values of these positions are in."""
    size = cache.config.frame_size
    return cache.config.prefix + min(cache.ring, (int(positions_BL.max()) // size + 1) * size)


def lean_attend(
    cache: RingCache, positions_BL: torch.Tensor, rotation: Rotation, mask_BLC: torch.Tensor
) -> Callable[[int, Any, torch.Tensor], torch.Tensor]:
    """What a step does between the two projections of attention, for every layer.

    Args:
        cache: whose slots are written and read.
        positions_BL: of the tokens of this step; none that they see is newer.
        rotation: of their queries and keys.
        mask_BLC: `slot_mask` of the first slots: of all that the tokens see.
    """
    config, C = cache.config, mask_BLC.shape[2]
    (B, L), N, K, E, P = positions_BL.shape, config.heads, config.kv_heads, config.head_dim, config.prefix
    G = N // K
    cos, sin = rotation
    cos_BL1E, sin_BL1E = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
    mask_BKMC = mask_BLC[:, None, None].expand(B, K, G, L, C).reshape(B, K, G * L, C)
    place = (torch.arange(B)[:, None], cache.slots(positions_BL))

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
        keys_BKEC = keys_BKCE[:, :, :C].transpose(2, 3)
        q_BKME, q_prefix_BKME = rows(rotated_BLHE[:, :, :N].contiguous()), rows(qk_BLHE[:, :, :N].contiguous())
        scores = torch.cat((product(q_prefix_BKME, keys_BKEC[..., :P]), product(q_BKME, keys_BKEC[..., P:])), -1)
        weights_BKMC = torch.add(mask_BKMC, scores, alpha=E**-0.5).softmax(-1)
        return product(weights_BKMC, values_BKCE[:, :, :C]).reshape(B, N, L, E).transpose(1, 2)

    return attend
