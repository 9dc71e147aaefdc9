"""`attention`, compiled ahead of time (conftest.py tells how)."""

import pytest
import torch

from reelm.kernels.attention_triton import attention_triton

# The second set has every integer argument that may be 1 at 1, which Triton makes a constant of.
SHAPES = [
    pytest.param(torch.bfloat16, 128, 8, 2, 32, 64, 8, id="bf16-128"),
    pytest.param(torch.float32, 48, 2, 2, 1, 1, 1, id="fp32-48-ones"),
    pytest.param(torch.float32, 128, 4, 2, 0, 16, 4, id="fp32-128", marks=pytest.mark.slow),
    pytest.param(torch.float16, 64, 6, 2, 7, 9, 3, id="fp16-64", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("dtype", "E", "N", "K", "prefix", "frame_size", "window"), SHAPES)
def test_attention_compiles(compiled, dtype, E, N, K, prefix, frame_size, window):
    S = prefix + 10 * frame_size
    q, k = torch.zeros(2, S, N, E, dtype=dtype), torch.zeros(2, S, K, E, dtype=dtype)
    lengths = torch.zeros(2, dtype=torch.int64)
    attention_triton(q, q, k, k, lengths, prefix=prefix, frame_size=frame_size, window=window)
    assert [kernel.metadata.name for kernel in compiled] == ["_attention_kernel"]
