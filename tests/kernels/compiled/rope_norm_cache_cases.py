"""`rope_norm_cache`, compiled ahead of time (conftest.py tells how)."""

import pytest
import torch

from reelm.kernels.rope_norm_cache_triton import rope_norm_cache_triton

# The second set has every integer argument that may be 1 at 1, which Triton makes a constant of.
SHAPES = [
    pytest.param(torch.bfloat16, 2, 1, 8, 2, 128, 4096, True, id="bf16-128-int8"),
    pytest.param(torch.float32, 1, 1, 1, 1, 2, 1, False, id="fp32-ones"),
    pytest.param(torch.float32, 1, 1, 1, 1, 2, 1, True, id="fp32-ones-int8", marks=pytest.mark.slow),
    pytest.param(torch.bfloat16, 2, 16, 8, 2, 128, 4096, False, id="bf16-128", marks=pytest.mark.slow),
    pytest.param(torch.float16, 3, 5, 6, 2, 48, 99, False, id="fp16-48", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("dtype", "B", "L", "N", "K", "E", "C", "quantize"), SHAPES)
def test_rope_norm_cache_compiles(compiled, dtype, B, L, N, K, E, C, quantize):
    cache = torch.zeros(B, K, C, E, dtype=torch.int8 if quantize else dtype)
    scales = torch.zeros(B, K, C) if quantize else None
    part, slots = torch.zeros(B, L, 1, E // 2), torch.zeros(B, L, dtype=torch.int64)
    rope_norm_cache_triton(
        torch.zeros(B, L, N + 2 * K, E, dtype=dtype), torch.zeros(E), torch.zeros(E), slots, cache, cache,
        rotation=(part, part), epsilon=1e-6, k_scales_BKC=scales, v_scales_BKC=scales,
    )  # fmt: skip
    assert [kernel.metadata.name for kernel in compiled] == ["_rope_norm_cache_kernel"]
