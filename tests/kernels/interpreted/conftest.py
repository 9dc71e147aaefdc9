"""What the cases in this folder share: they run the Triton kernels, against float64.

test_triton.py runs them in Triton's interpreter, in a process of its own with TRITON_INTERPRET=1; without it they run
on the GPU (`make gpu`). Pytest alone collects none of them. Tensors are made on the default device; random numbers are
drawn on the CPU and moved there, so that the GPU is given those of the interpreter. The allowed error is twice what
plain torch makes at the same precision. Everything that torch.empty returns is NaN.
"""

import dataclasses
import os

import numpy as np
import pytest
import torch
from hypothesis import Phase, settings

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
    """Mends the interpreter, and older tritons on numpy >= 2.4: bfloat16 is cut off there, and an integer in tl.dot."""
    if not INTERPRETED:
        return
    # Imported here: pytest reads this file in runs that are not the interpreter's too.
    import triton.language as tl
    from triton.runtime import interpreter

    builder, patch_tensor = interpreter.InterpreterBuilder, interpreter._patch_lang_tensor
    create_dot, cast = builder.create_dot, builder.cast_impl

    def upcast(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot_of_bfloat16(self, a, b, *rest):
        return create_dot(self, upcast(a), upcast(b), *rest)

    def cast_to_nearest(self, handle, kind):
        if handle.dtype.scalar != tl.float32 or kind.scalar != tl.bfloat16:
            return cast(self, handle, kind)
        bits = torch.from_numpy(np.array(handle.data)).to(torch.bfloat16).view(torch.uint16).numpy()
        return interpreter.TensorHandle(bits, tl.bfloat16)

    def patch_tensor_and_index(tensor, *scope):
        patch_tensor(tensor, *scope)
        tensor.__index__ = lambda self: int(np.asarray(self.handle.data).reshape(-1)[0])

    monkeypatch.setattr(builder, "create_dot", create_dot_of_bfloat16)
    monkeypatch.setattr(builder, "cast_impl", cast_to_nearest)
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_tensor_and_index)


@pytest.fixture(autouse=True)
def quick_interpreter(monkeypatch, right_interpreter):
    """Spares the interpreter what it does again and again without effect: most of its time, and none of its results."""
    if not INTERPRETED:
        return
    from triton.runtime import interpreter

    # It works out whether sums of integers overflow, and then asserts so only when debugging.
    builder = interpreter.interpreter_builder
    spared = dataclasses.replace(builder.options, sanitize_overflow=builder.options.debug)
    monkeypatch.setattr(builder, "options", spared)

    # Every call of a function in a kernel replaces triton.language's functions, which stay so until the launch ends.
    patch_lang, launch, patched = interpreter._patch_lang, interpreter.GridExecutor.__call__, set()

    def patch_once_a_launch(fn):
        if id(fn.__globals__) not in patched:
            patched.add(id(fn.__globals__))
            return patch_lang(fn)

    def launch_afresh(self, *args, **options):
        patched.clear()
        return launch(self, *args, **options)

    monkeypatch.setattr(interpreter, "_patch_lang", patch_once_a_launch)
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", launch_afresh)

    # Every look at a dtype makes the whole table of dtypes.
    numpy_dtype, numpy_dtypes = interpreter._get_np_dtype, {}

    def numpy_dtype_made_once(kind):
        name = kind.scalar.name
        if name not in numpy_dtypes:
            numpy_dtypes[name] = numpy_dtype(kind)
        return numpy_dtypes[name]

    monkeypatch.setattr(interpreter, "_get_np_dtype", numpy_dtype_made_once)


@pytest.fixture(params=[3, pytest.param(200, marks=pytest.mark.slow)], ids=["few", "many"])
def examples(request):
    """How many cases hypothesis draws, the same ones in every run: a decorator for a function with @given."""
    # On a GPU every case is compiled, and a failing one is not made smaller by hundreds of others.
    phases = tuple(Phase) if INTERPRETED else (Phase.explicit, Phase.generate)
    return settings(max_examples=request.param, deadline=None, derandomize=True, phases=phases)


@pytest.fixture
def check_error():
    """check(out, plain, exact): the norm of out's error is at most twice that of plain torch's.

    Half a rounding is granted to rows (all but the last axis) with one key, where plain torch makes none; and one of
    float32 of `terms`, the norm of what is summed up to little. Of few rows plain torch's error is luck: the fewer
    there are, the more is allowed.
    """

    def check(out, plain, exact, terms=0.0):
        assert out.dtype == plain.dtype and out.isfinite().all()
        luck = 2 / max(1, int(exact.ne(0).any(-1).sum())) ** 0.5
        roundings = torch.finfo(out.dtype).eps * exact.norm()
        allowed = (1 + luck) * (2 * (plain - exact).norm() + 2.0**-22 * terms) + (1 / 4 + luck) * roundings
        assert (out - exact).norm() <= allowed, f"{(out - exact).norm() / allowed:.2f} times the allowed error"

    return check
