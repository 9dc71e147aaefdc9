"""`attention`, compiled ahead of time, forward and backward (conftest.py tells how)."""

import pytest
import torch

from reelm.kernels.attention_triton import attention_triton

# The second set has every integer argument that may be 1 at 1, which Triton makes a constant of.
SHAPES = [
    pytest.param(torch.bfloat16, 128, 8, 2, 32, 64, 8, "token", id="bf16-128"),
    pytest.param(torch.float32, 48, 2, 2, 1, 1, 1, "frame", id="fp32-48-ones"),
    pytest.param(torch.float32, 128, 4, 2, 0, 16, 4, "token", id="fp32-128", marks=pytest.mark.slow),
    pytest.param(torch.float16, 64, 6, 2, 7, 9, 3, "token", id="fp16-64", marks=pytest.mark.slow),
    pytest.param(torch.bfloat16, 96, 2, 1, 0, 1, None, "token", id="bf16-96-causal", marks=pytest.mark.slow),
    pytest.param(torch.bfloat16, 64, 4, 1, 3, 16, 2, "frame", id="bf16-64-frame", marks=pytest.mark.slow),
    pytest.param(torch.bfloat16, 128, 1, 1, 0, 1, None, "full", id="bf16-128-full", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("dtype", "E", "N", "K", "prefix", "frame_size", "window", "mask"), SHAPES)
def test_attention_compiles(compiled, dtype, E, N, K, prefix, frame_size, window, mask):
    S = prefix + 10 * frame_size
    q, q_prefix, k, v = (torch.zeros(2, S, heads, E, dtype=dtype, requires_grad=True) for heads in (N, N, K, K))
    lengths = torch.zeros(2, dtype=torch.int64)
    out, _ = attention_triton(
        q, k, v, prefix=prefix, q_prefix_BSNE=q_prefix, prefix_lengths_B=lengths, frame_size=frame_size,
        window=window, mask=mask, return_lse=False,
    )  # fmt: skip
    out.sum().backward()
    names = [kernel.metadata.name for kernel in compiled]
    assert names == ["_forward_kernel", "_delta_kernel", "_dq_kernel", "_dkdv_kernel"]
