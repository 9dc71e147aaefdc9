"""`sample`, compiled ahead of time (conftest.py tells how)."""

import re

import pytest
import torch

from reelm.kernels.sample_triton import sample_triton

SETTINGS = {"guidance_scale": 1.0, "temperature": 1.0, "top_k": None, "top_p": 1.0, "min_p": 0.0, "noise_BV": None}
# The second and the last have every integer argument that may be 1 at 1, which Triton makes a constant of.
CASES = [
    pytest.param(torch.bfloat16, 65536, {"guidance_scale": 3.0}, id="bf16-65536"),
    pytest.param(torch.float32, 2, {}, id="fp32-2"),
    pytest.param(torch.bfloat16, 65536, {"guidance_scale": 3.0, "top_k": 50, "top_p": 0.9, "min_p": 0.1}, id="rules"),
    pytest.param(torch.float16, 65536, {"top_p": 0.9}, id="top-p"),
    pytest.param(torch.float32, 2, {"top_k": 1, "top_p": 0.9}, id="rules-2"),
    pytest.param(torch.float32, 262144, {"top_k": 50}, id="top-k", marks=pytest.mark.slow),
    pytest.param(torch.float32, 262144, {"min_p": 0.1}, id="min-p", marks=pytest.mark.slow),
    pytest.param(torch.float32, 1920, {"top_p": 0.9, "min_p": 0.1}, id="top-p-min-p", marks=pytest.mark.slow),
    pytest.param(torch.float32, 1920, {"top_k": 50, "min_p": 0.1}, id="top-k-min-p", marks=pytest.mark.slow),
    pytest.param(torch.float32, 3000, {"top_k": 50}, id="top-k-3000", marks=pytest.mark.slow),
    pytest.param(torch.float32, 1920, {"temperature": 0.0}, id="greedy", marks=pytest.mark.slow),
    pytest.param(torch.float32, 65537, {"noise_BV": torch.zeros(1, 65537)}, id="noise", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("dtype", "V", "options"), CASES)
def test_sample_compiles(compiled, dtype, V, options):
    rows = 2 if "guidance_scale" in options else 1
    keys = [torch.zeros(1, dtype=torch.int64)] * 3
    sample_triton(torch.zeros(rows, V, dtype=dtype), *keys, **(SETTINGS | options))
    rules = {"top_k", "top_p", "min_p"} & options.keys()
    assert [kernel.metadata.name for kernel in compiled] == [
        "_score_kernel", "_rules_kernel" if rules else "_winner_kernel"
    ]  # fmt: skip
    # The noise has the same bits everywhere only if no multiplication is fused with an addition.
    text = compiled[0].asm.get("ptx") or compiled[0].asm["amdgcn"]
    assert not re.search(r"\bfma\.|v_(pk_)?(fma|fmac|mad|mac)_f", text)
    assert re.search(r"\bmul(\.rn)?\.f32|v_(pk_)?mul_f32", text)
