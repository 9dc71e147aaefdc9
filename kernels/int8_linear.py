"""A linear layer whose weights are int8 and whose inputs are not: half of the bytes that a decoding step reads.

    whole_OI, scales_O = quantise(weight_OI)               # quantization.py
    y_MO = int8_linear(x_MI, whole_OI, scales_O)           # about x_MI @ weight_OI.T

A step of few tokens takes as long as reading the weights does, so that a GPU is done in half the time. The inputs stay
as they are: only the weights are rounded.
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
    """x @ (whole * scales).T, summed in float32 (float64 for float64) and rounded once.

    Args:
        x_MI: the inputs, any number M of them.
        whole_OI: the weights of each output, int8.
        scales_O: what the whole numbers of an output are worth, float32.
        backend: "reference" or "triton"; by default as `pick_backend` says.

    Returns:
        y_MO, in the dtype of x.

    Raises:
        ReelmError: the shapes, dtypes or devices do not fit together.
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
