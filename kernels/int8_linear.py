"""A linear layer with int8 weights and floating-point inputs, which halves the bytes that a decoding step reads.

    whole_OI, scales_O = quantize(weight_OI)               # quantize.py
    y_MO = int8_linear(x_MI, whole_OI, scales_O)           # approximates x_MI @ weight_OI.T

A decoding step of few tokens takes as long as reading the weights, so a GPU needs half the time. Only the weights are
rounded, not the inputs.
"""

import torch

from ..core.errors import ReelmError, require
from .backend import FLOATS, pick_backend
from .check import check_tensor
from .int8_linear_reference import int8_linear_reference


@torch.no_grad()
def int8_linear(
    x_MI: torch.Tensor, whole_OI: torch.Tensor, scales_O: torch.Tensor, *, backend: str | None = None
) -> torch.Tensor:
    """Compute x @ (whole * scales).T, summed in float32 (float64 for float64) and rounded once.

    Args:
        x_MI: The inputs; M may be 0.
        whole_OI: The int8 weights.
        scales_O: The factor of each output's weights, float32.
        backend: The implementation, "reference" or "triton"; by default the choice of `pick_backend`.

    Returns:
        y_MO, in the dtype of x.

    Raises:
        ReelmError: The shapes, dtypes or devices do not match, or a last axis is not contiguous.
    """
    require(x_MI.ndim == 2 and x_MI.shape[1] >= 1, "x_MI", "must be rows of at least 1 channel", tuple(x_MI.shape))
    require(x_MI.dtype.is_floating_point, "x_MI", "must be of a floating-point dtype", x_MI.dtype)
    require(whole_OI.ndim == 2, "whole_OI", "must have 2 dimensions", tuple(whole_OI.shape))
    outputs, channels, like = whole_OI.shape[0], x_MI.shape[1], ("x_MI", x_MI)
    check_tensor("whole_OI", whole_OI, (outputs, channels), (torch.int8,), like)
    check_tensor("scales_O", scales_O, (outputs,), (torch.float32,), like)
    for name, tensor in (("x_MI", x_MI), ("whole_OI", whole_OI), ("scales_O", scales_O)):
        if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            raise ReelmError(f"{name}: must be contiguous along its last axis, got strides {tensor.stride()}")
    run = int8_linear_reference
    unserved = None if x_MI.dtype in FLOATS else f"dtype {x_MI.dtype}"
    if pick_backend("int8_linear", backend, x_MI, unserved) == "triton":
        # Importing reelm must not import triton.
        from .int8_linear_triton import int8_linear_triton as run
    return run(x_MI, whole_OI, scales_O)
