"""Symmetric int8 quantization with one scale for each vector: a head of a slot in a cache, or the weights of an output.

    whole_BKCE, scales_BKC = quantize(x_BKCE)          # x is approximated by whole * scales[..., None]

The weights of `int8_linear` and all values in an int8 cache are quantized in this way: by `rope_norm_cache_reference`,
its Triton kernel, and the code that fills the prefix.
"""

import torch


def quantize(x_E: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x (…, E) as int8, and the scales (…) in float32: max |x| / 127 over the last axis, or 1 if that is 0."""
    x_E = x_E.to(torch.promote_types(x_E.dtype, torch.float32))
    largest = x_E.abs().amax(-1).float()
    scales = largest / largest.new_tensor(127)  # dividing by a Python number, a GPU would multiply by the reciprocal
    scales = torch.where(scales > 0, scales, 1.0)
    # The clamp is for subnormal scales, which have few bits.
    return (x_E / scales[..., None]).round().clamp(-127, 127).to(torch.int8), scales
