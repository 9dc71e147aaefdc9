"""`nearest_code`, compiled ahead of time (conftest.py tells how)."""

import pytest
import torch

from reelm.kernels.nearest_code_triton import nearest_code_triton

# The second set has every integer argument that may be 1 at 1, which Triton makes a constant of.
SHAPES = [
    pytest.param(torch.bfloat16, 4096, 65536, 256, id="bf16-256"),
    pytest.param(torch.float32, 1, 1, 1, id="fp32-ones"),
    pytest.param(torch.float32, 4096, 1024, 8, id="fp32-8"),
    pytest.param(torch.float32, 4096, 1000, 256, id="fp32-256", marks=pytest.mark.slow),
    pytest.param(torch.float16, 333, 77, 33, id="fp16-33", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("dtype", "N", "K", "D"), SHAPES)
def test_nearest_code_compiles(compiled, dtype, N, K, D):
    nearest_code_triton(torch.zeros(N, D, dtype=dtype), torch.zeros(K, D, dtype=dtype))
    assert [kernel.metadata.name for kernel in compiled] == ["_half_norms_kernel", "_nearest_code_kernel"]
