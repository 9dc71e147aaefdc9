"""What the cases in this folder share: they run the Triton kernels, against float64.

test_triton.py runs them in Triton's interpreter, in a process of its own with TRITON_INTERPRET=1; without it they run
on the GPU (`make gpu`). Pytest alone collects none of them. Tensors are made on the default device, random ones with
torch.Generator(torch.get_default_device()). The allowed error is twice what plain torch makes at the same precision.
Everything that torch.empty returns is NaN.
"""

import os

import numpy as np
import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(autouse=True)
def default_device():
    torch.set_default_device("cpu" if INTERPRETED else "cuda")
    yield
    torch.set_default_device(None)


@pytest.fixture(autouse=True)
def poisoned_empty(default_device):
    torch.use_deterministic_algorithms(True, warn_only=not INTERPRETED)  # some of CUDA's own would refuse
    assert torch.utils.deterministic.fill_uninitialized_memory and torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def right_interpreter(monkeypatch):
    """Mends the interpreter: tl.dot takes bfloat16 for integers, and older tritons fail on numpy >= 2.4."""
    if not INTERPRETED:
        return
    # Imported here: pytest reads this file in runs that are not the interpreter's too.
    import triton.language as tl
    from triton.runtime import interpreter

    create_dot, patch_tensor = interpreter.InterpreterBuilder.create_dot, interpreter._patch_lang_tensor

    def upcast(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot_of_bfloat16(self, a, b, *rest):
        return create_dot(self, upcast(a), upcast(b), *rest)

    def patch_tensor_and_index(tensor, *scope):
        patch_tensor(tensor, *scope)
        tensor.__index__ = lambda self: int(np.asarray(self.handle.data).reshape(-1)[0])

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot_of_bfloat16)
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_tensor_and_index)


@pytest.fixture
def check_error():
    """check(out, plain, exact): the norm of out's error is at most twice that of plain torch's.

    Half a rounding is granted to rows with one key, where plain torch makes none; to gradients also one of float32 of
    `terms`, the norm of what is subtracted in them.
    """

    def check(out, plain, exact, terms=0.0):
        assert out.dtype == plain.dtype and out.isfinite().all()
        allowed = 2 * (plain - exact).norm() + torch.finfo(out.dtype).eps / 4 * exact.norm() + 2.0**-22 * terms
        assert (out - exact).norm() <= allowed, f"{(out - exact).norm() / allowed:.2f} times the allowed error"

    return check
