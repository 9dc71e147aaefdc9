"""Compiles every kernel ahead of time, through the launch path itself, for chips that are not here.

Run by test_triton.py in a process of its own: a stand-in driver names the chip, and every launch stops after compiling.
"""

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from reelm.kernels.attention_triton import attention_triton
from reelm.kernels.decode_attention_triton import decode_attention_triton

# Target, and the bytes of shared memory that one program may have.
CHIPS = {
    "sm_80": (GPUTarget("cuda", 80, 32), 166912),
    "sm_90": (GPUTarget("cuda", 90, 32), 232448),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 65536),
}


class ChipDriver(DriverBase):
    def __init__(self, target):
        self.target = target

    @classmethod
    def is_active(cls):
        return True

    def map_python_to_cpp_type(self, ty):
        return ty

    def get_current_target(self):
        return self.target

    def get_active_torch_device(self):
        return torch.device("cpu")

    def get_benchmarker(self):
        return lambda *args, quantiles, **options: [1.0] * len(quantiles)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


@pytest.fixture(params=list(CHIPS))
def compiled(request, monkeypatch):
    """A list that every launched kernel is put into, compiled for the chip and never run; checked at the end."""
    target, shared_limit = CHIPS[request.param]
    kernels, run = [], JITFunction.run

    def compile_only(self, *args, grid, warmup, **options):
        self.device_caches.clear()
        kernels.append(run(self, *args, grid=grid, warmup=True, **options))

    monkeypatch.setattr(JITFunction, "run", compile_only)
    driver.set_active(ChipDriver(target))
    yield kernels
    for kernel in kernels:
        assert kernel.metadata.target == target
        assert 0 <= kernel.metadata.shared <= shared_limit, (kernel.metadata.name, kernel.metadata.shared)


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
