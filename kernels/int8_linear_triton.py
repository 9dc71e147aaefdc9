"""`int8_linear` in Triton: a program for each block of outputs loops over the input channels, then applies the scales.

    y_MO = int8_linear_triton(x_MI, whole_OI, scales_O)

The int8 weights are exact in the dtype of the inputs, so products run on tensor cores. Reading the weights takes most
of the time of a decoding step; blocks of outputs are small, so that there are programs for the whole GPU.
"""

# ruff: noqa: ANN001 (the arguments of a kernel, which Triton types at each launch)

import torch
import triton
import triton.language as tl

from .fusion import FUSED


@triton.jit
def _int8_linear_kernel(  # type: ignore[no-untyped-def]
    x_ptr, whole_ptr, scales_ptr, y_ptr, x_stride, whole_stride, M, outputs, channels,
    BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    # Blocks of rows that use the same weights run at the same time, so that the weights are read from memory once.
    row_blocks = tl.cdiv(M, BLOCK_M)
    row_M = tl.program_id(0) % row_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    output_O = tl.program_id(0) // row_blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    channel_I = tl.arange(0, BLOCK_I)
    x_place_MI = row_M.to(tl.int64)[:, None] * x_stride + channel_I[None, :]
    whole_place_IO = output_O.to(tl.int64)[None, :] * whole_stride + channel_I[:, None]
    total_MO = tl.zeros([BLOCK_M, BLOCK_O], tl.float32)
    for start in range(0, channels, BLOCK_I):
        inside_I = channel_I < channels - start
        x_MI = tl.load(x_ptr + x_place_MI + start, mask=(row_M < M)[:, None] & inside_I[None, :], other=0.0)
        whole_IO = tl.load(
            whole_ptr + whole_place_IO + start, mask=(output_O < outputs)[None, :] & inside_I[:, None], other=0
        )
        # The detour by float32 is for Triton's interpreter, which converts integers to bfloat16 incorrectly.
        weight_IO = whole_IO.to(tl.float32).to(x_MI.dtype)
        total_MO = tl.dot(x_MI, weight_IO, total_MO, input_precision="ieee")
    scale_O = tl.load(scales_ptr + output_O, mask=output_O < outputs, other=0.0)
    y_place_MO = row_M.to(tl.int64)[:, None] * outputs + output_O[None, :]
    tl.store(y_ptr + y_place_MO, total_MO * scale_O[None, :], mask=(row_M < M)[:, None] & (output_O < outputs)[None, :])


def int8_linear_triton(x_MI: torch.Tensor, whole_OI: torch.Tensor, scales_O: torch.Tensor) -> torch.Tensor:
    """Compute `int8_linear`, with the same arguments and result, for float32, bfloat16 or float16."""
    (M, channels), outputs = x_MI.shape, len(whole_OI)
    y_MO = torch.empty(M, outputs, dtype=x_MI.dtype, device=x_MI.device)
    if M and outputs:
        blocks = block_sizes(M, x_MI.element_size())
        programs = triton.cdiv(M, blocks["BLOCK_M"]) * triton.cdiv(outputs, blocks["BLOCK_O"])
        _int8_linear_kernel[(programs,)](
            x_MI, whole_OI, scales_O, y_MO, x_MI.stride(0), whole_OI.stride(0), M, outputs, channels, **blocks, **FUSED
        )
    return y_MO


def block_sizes(M: int, element_size: int) -> dict[str, int]:
    """Return block sizes and launch options for M rows, which have not been measured on a GPU yet."""
    if M > 32:
        if element_size == 4:
            # Sums in float32 need the registers of many threads. On sm_100 Triton would compute blocks of 64 rows in
            # TF32, in spite of input_precision, as it does not recognise that the int8 weights have become float32.
            return {"BLOCK_M": 32, "BLOCK_O": 64, "BLOCK_I": 32, "num_warps": 8, "num_stages": 3}
        return {"BLOCK_M": 64, "BLOCK_O": 64, "BLOCK_I": 64, "num_warps": 4, "num_stages": 3}
    return {
        "BLOCK_M": 16 if M <= 16 else 32, "BLOCK_O": 16, "BLOCK_I": 512 // element_size, "num_warps": 4,
        "num_stages": 3,
    }  # fmt: skip
