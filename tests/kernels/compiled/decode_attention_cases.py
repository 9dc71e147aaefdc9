"""`decode_attention`, compiled ahead of time (conftest.py tells how)."""

import pytest
import torch

from reelm.kernels.decode_attention_triton import decode_attention_triton

# The second set has every integer argument that may be 1 at 1, which Triton makes a constant of.
SHAPES = [
    pytest.param(torch.bfloat16, 128, 8, 2, 32, 64, 8, id="bf16-128"),
    pytest.param(torch.float32, 48, 2, 2, 1, 1, 1, id="fp32-48-ones"),
    pytest.param(torch.float32, 128, 4, 2, 0, 16, 4, id="fp32-128", marks=pytest.mark.slow),
    pytest.param(torch.float16, 64, 6, 2, 7, 9, 3, id="fp16-64", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("dtype", "E", "N", "K", "prefix", "frame_size", "window"), SHAPES)
def test_decode_attention_compiles(compiled, dtype, E, N, K, prefix, frame_size, window):
    L = 16 if frame_size > 1 else 1
    q, cache = (
        torch.zeros(2, L, N, E, dtype=dtype),
        torch.zeros(2, K, prefix + (window + L - 1) * frame_size, E, dtype=dtype),
    )
    numbers = torch.zeros(2, dtype=torch.int64)
    decode_attention_triton(q, q, cache, cache, numbers, numbers, prefix=prefix, frame_size=frame_size, window=window)
    assert [kernel.metadata.name for kernel in compiled] == ["_split_kernel", "_combine_kernel"]
