"""`int8_linear` in plain torch: the reference for tests of the Triton kernel.

    y_MO = int8_linear_reference(x_MI, whole_OI, scales_O)

It converts the weights to floating point in each call, so it saves memory but no time; lm/quantization.py has a faster
implementation for CPUs.
"""

import torch


def int8_linear_reference(x_MI: torch.Tensor, whole_OI: torch.Tensor, scales_O: torch.Tensor) -> torch.Tensor:
    """Compute `int8_linear`, with the same arguments and result."""
    dtype = torch.promote_types(x_MI.dtype, torch.float32)
    return (x_MI.to(dtype) @ whole_OI.to(dtype).T * scales_O).to(x_MI.dtype)
