"""`int8_linear`, compiled ahead of time (conftest.py tells how)."""

import pytest
import torch

from reelm.kernels.int8_linear_triton import int8_linear_triton

# The third has every integer argument that may be 1 at 1, which Triton makes a constant of.
SHAPES = [
    pytest.param(torch.bfloat16, 2, 4096, 4096, id="bf16-2"),
    pytest.param(torch.bfloat16, 512, 4096, 4096, id="bf16-512"),
    pytest.param(torch.float32, 1, 1, 1, id="fp32-ones"),
    pytest.param(torch.float16, 32, 14336, 4096, id="fp16-32", marks=pytest.mark.slow),
    pytest.param(torch.float32, 512, 1000, 333, id="fp32-512"),
]


@pytest.mark.parametrize(("dtype", "M", "outputs", "channels"), SHAPES)
def test_int8_linear_compiles(compiled, dtype, M, outputs, channels):
    int8_linear_triton(
        torch.zeros(M, channels, dtype=dtype), torch.zeros(outputs, channels, dtype=torch.int8), torch.zeros(outputs)
    )
    assert [kernel.metadata.name for kernel in compiled] == ["_int8_linear_kernel"]
    text, nvidia = compiled[0].asm.get("ptx") or compiled[0].asm["amdgcn"], "ptx" in compiled[0].asm
    # NVIDIA's have no float32, only a part of its digits.
    wanted = not nvidia or dtype != torch.float32
    assert any(name in text for name in ("tcgen05.mma", "wgmma.mma_async", "mma.sync", "v_mfma")) == wanted
