"""`int8_linear` in Triton: a program for a block of outputs walks the inputs' channels; the scale comes last.

    y_MO = int8_linear_triton(x_MI, whole_OI, scales_O)

The whole numbers up to 127 are exact in the dtype of the inputs, so that they meet on the tensor cores. What a step
reads is the weights: its blocks of outputs are small, so that there are programs for all of a GPU.
"""

# ruff: noqa: ANN001 (the arguments of a kernel, which Triton types at each launch)

import torch
import triton
import triton.language as tl


@triton.jit
def _int8_linear_kernel(  # type: ignore[no-untyped-def]
    x_ptr, whole_ptr, scales_ptr, y_ptr, x_stride, whole_stride, M, outputs, channels,
    BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    # Blocks of rows that share their weights run side by side, so that these are read from memory once.
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
        # By way of float32: Triton's interpreter cuts integers to bfloat16 wrongly.
        weight_IO = whole_IO.to(tl.float32).to(x_MI.dtype)
        total_MO = tl.dot(x_MI, weight_IO, total_MO, input_precision="ieee")
    scale_O = tl.load(scales_ptr + output_O, mask=output_O < outputs, other=0.0)
    y_place_MO = row_M.to(tl.int64)[:, None] * outputs + output_O[None, :]
    tl.store(y_ptr + y_place_MO, total_MO * scale_O[None, :], mask=(row_M < M)[:, None] & (output_O < outputs)[None, :])


def int8_linear_triton(x_MI: torch.Tensor, whole_OI: torch.Tensor, scales_O: torch.Tensor) -> torch.Tensor:
    """Arguments and result as `int8_linear`; float32, bfloat16 or float16."""
    (M, channels), outputs = x_MI.shape, len(whole_OI)
    y_MO = torch.empty(M, outputs, dtype=x_MI.dtype, device=x_MI.device)
    if M and outputs:
        blocks = block_sizes(M, x_MI.element_size())
        programs = triton.cdiv(M, blocks["BLOCK_M"]) * triton.cdiv(outputs, blocks["BLOCK_O"])
        _int8_linear_kernel[(programs,)](
            x_MI, whole_OI, scales_O, y_MO, x_MI.stride(0), whole_OI.stride(0), M, outputs, channels, **blocks
        )
    return y_MO


def block_sizes(M: int, element_size: int) -> dict[str, int]:
    """Block sizes and launch options for M rows; a guess until a GPU measures them."""
    if M > 32:
        if element_size == 4:
            # float32 needs the registers of many threads for its sums; and of blocks of 64 rows triton makes TF32 on
            # sm_100, whatever input_precision says, as it does not see that weights of int8 have become float32.
            return {"BLOCK_M": 32, "BLOCK_O": 64, "BLOCK_I": 32, "num_warps": 8, "num_stages": 3}
        return {"BLOCK_M": 64, "BLOCK_O": 64, "BLOCK_I": 64, "num_warps": 4, "num_stages": 3}
    return {
        "BLOCK_M": 16 if M <= 16 else 32, "BLOCK_O": 16, "BLOCK_I": 512 // element_size, "num_warps": 4,
        "num_stages": 3,
    }  # fmt: skip
