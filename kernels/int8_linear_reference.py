"""`int8_linear` in plain torch: what the Triton kernel is tested against.

    y_MO = int8_linear_reference(x_MI, whole_OI, scales_O)

It makes the weights anew as floating-point numbers, and so gains memory alone; a CPU has a
faster way (lm/quantization.py).
"""

import torch


def int8_linear_reference(x_MI: torch.Tensor, whole_OI: torch.Tensor, scales_O: torch.Tensor) -> torch.Tensor:
    """Arguments and result as `int8_linear`."""
    dtype = torch.promote_types(x_MI.dtype, torch.float32)
    return (x_MI.to(dtype) @ whole_OI.to(dtype).T * scales_O).to(x_MI.dtype)
