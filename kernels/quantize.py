"""How numbers become int8: keys and values a head of a slot at a time, weights an output at a time.

    whole_BKCE, scales_BKC = quantise(x_BKCE)          # x is about whole * scales[..., None]

One rule for the weights of `int8_linear` and for all that writes into an int8 cache: `rope_norm_cache_reference`, its
Triton kernel, and the prefix.
"""

import torch


def quantise(x_E: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x (…, E) as int8, and the scales (…) in float32: max |x| / 127 along the last axis, 1 where all is zero."""
    x_E = x_E.to(torch.promote_types(x_E.dtype, torch.float32))
    most = x_E.abs().amax(-1).float()
    scales = most / most.new_tensor(127)  # by a number, a GPU would multiply with its inverse
    scales = torch.where(scales > 0, scales, 1.0)
    # The clamp is for scales so small that they have few bits.
    return (x_E / scales[..., None]).round().clamp(-127, 127).to(torch.int8), scales
