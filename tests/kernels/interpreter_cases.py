"""The Triton kernels in Triton's interpreter, against float64; run by test_triton.py with TRITON_INTERPRET=1.

The allowed error is twice what plain torch makes at the same precision. Everything that torch.empty returns is NaN.
"""

import os

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

from reelm.kernels import attention_triton, decode_attention_triton
from reelm.kernels.attention import attention
from reelm.kernels.decode_attention import decode_attention

assert os.environ.get("TRITON_INTERPRET") == "1", "run by test_triton.py"


@pytest.fixture(autouse=True)
def poisoned_empty():
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory and torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def right_interpreter(monkeypatch):
    """Mends the interpreter: tl.dot takes bfloat16 for integers, and older tritons fail on numpy >= 2.4."""
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


def check_error(out, plain, exact):
    """Norms of the errors; half a rounding is granted to rows with one key, where plain torch makes none."""
    assert out.dtype == plain.dtype and out.isfinite().all()
    allowed = 2 * (plain - exact).norm() + torch.finfo(out.dtype).eps / 4 * exact.norm()
    assert (out - exact).norm() <= allowed, f"{(out - exact).norm() / allowed:.2f} times the allowed error"


def draw(dtype, B, S, N, K, E):
    random = torch.Generator().manual_seed(S + E)
    return [torch.randn(B, S, heads, E, generator=random).to(dtype) for heads in (N, N, K, K)]


ATTENTION = [
    # dtype, N, K, E, prefix, video tokens, frame_size, window, lengths
    pytest.param(torch.float32, 4, 2, 16, 5, 90, 7, 3, (0, 3), id="odd sizes, empty prefix"),
    pytest.param(torch.float32, 3, 1, 48, 70, 75, 16, 2, (66, 70), id="prefix over one block, padded head"),
    pytest.param(torch.float32, 2, 2, 16, 0, 1, 1, 1, (0, 0), id="one token"),
    pytest.param(torch.float32, 2, 1, 16, 1, 0, 1, 1, (1, 0), id="one prefix slot"),
    pytest.param(torch.float32, 1, 1, 16, 0, 200, 4, 1, (0,), id="window far shorter than a block"),
    pytest.param(torch.float32, 1, 1, 16, 0, 130, 48, 1, (0,), id="blocks that start inside a latent frame"),
    pytest.param(torch.bfloat16, 6, 2, 32, 5, 150, 16, 4, (0, 5), id="bf16"),
    pytest.param(torch.bfloat16, 2, 1, 128, 9, 20, 4, 2, (9,), id="bf16, widest head"),
    pytest.param(torch.float16, 2, 2, 80, 3, 30, 4, 2, (2,), id="fp16"),
]


@pytest.mark.parametrize(("dtype", "N", "K", "E", "prefix", "video", "frame_size", "window", "lengths"), ATTENTION)
def test_attention(oracle, dtype, N, K, E, prefix, video, frame_size, window, lengths):
    layout = {"prefix": prefix, "frame_size": frame_size, "window": window}
    tensors, lengths = draw(dtype, len(lengths), prefix + video, N, K, E), torch.tensor(lengths)
    out = attention(*tensors, lengths, **layout, backend="triton")
    exact = oracle.attention(*(x.double() for x in tensors), lengths, **layout)
    check_error(out, oracle.attention(*tensors, lengths, **layout), exact)
    assert out[exact.eq(0).all(-1)].eq(0).all()


def test_attention_reads_no_padded_prefix_slot_and_takes_any_strides():
    q, q_prefix, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in draw(torch.float32, 1, 20, 2, 1, 16))
    lengths, layout = torch.tensor([3], dtype=torch.int32), {"prefix": 6, "frame_size": 4, "window": 2}
    expected = attention(q, q_prefix, k, v, lengths, **layout, backend="reference")
    k[:, 3:6], v[:, 3:6] = float("nan"), float("nan")
    torch.testing.assert_close(attention(q, q_prefix, k, v, lengths, **layout, backend="triton"), expected)


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
def test_attention_skips_blocks_outside_the_mask():
    # Keys before the window are never loaded: were they only masked, 0 * NaN would show.
    q, q_prefix, k, v = draw(torch.float32, 1, 256, 1, 1, 16)
    lengths, layout = torch.tensor([0]), {"prefix": 0, "frame_size": 64, "window": 1}
    expected = attention(q, q_prefix, k, v, lengths, **layout, backend="reference")
    k[:, :192], v[:, :192] = float("nan"), float("nan")
    out = attention(q, q_prefix, k, v, lengths, **layout, backend="triton")
    torch.testing.assert_close(out[:, 192:], expected[:, 192:])


DECODE = [
    # dtype, N, K, E, L, prefix, frame_size, window, spare frames of the ring, positions, lengths
    pytest.param(torch.float32, 4, 2, 16, 1, 5, 4, 3, 0, (0, 7, 100), (0, 3, 5), id="L1, at the start and wrapped"),
    pytest.param(torch.float32, 6, 2, 48, 5, 3, 7, 2, 1, (3, 61), (3, 1), id="L5, odd sizes, padded head"),
    pytest.param(torch.float32, 1, 1, 16, 1, 0, 1, 1, 0, (0,), (0,), id="one slot"),
    pytest.param(torch.float32, 2, 1, 16, 64, 2, 16, 2, 0, (37,), (2,), id="L64, rows over one block"),
    pytest.param(torch.float32, 2, 1, 16, 1, 300, 16, 19, 0, (20, 700), (290, 0), id="several splits, some empty"),
    pytest.param(torch.bfloat16, 6, 2, 32, 3, 5, 16, 4, 0, (0, 500), (0, 5), id="bf16"),
    pytest.param(torch.bfloat16, 2, 1, 128, 1, 9, 16, 17, 0, (300,), (9,), id="bf16, two splits of the ring"),
    pytest.param(torch.float16, 2, 2, 80, 2, 3, 4, 2, 0, (30,), (2,), id="fp16"),
]


@pytest.mark.parametrize(
    ("dtype", "N", "K", "E", "L", "prefix", "frame_size", "window", "spare", "positions", "lengths"), DECODE
)
def test_decode_attention(oracle, dtype, N, K, E, L, prefix, frame_size, window, spare, positions, lengths):
    layout, lengths = {"prefix": prefix, "frame_size": frame_size, "window": window}, torch.tensor(lengths)
    q, q_prefix, k, v = draw(dtype, len(positions), prefix + max(positions) + L, N, K, E)
    ring = oracle.least_ring(L, **layout) + spare * frame_size
    caches = [oracle.ring_cache(x, positions, L, lengths, **layout, ring=ring) for x in (k, v)]
    steps = [oracle.tokens_at(x, positions, L, prefix) for x in (q, q_prefix)]
    out = decode_attention(*steps, *caches, torch.tensor(positions), lengths, **layout, backend="triton")

    def history(b, dtype):
        return [x[b : b + 1, : prefix + positions[b] + L].to(dtype) for x in (q, q_prefix, k, v)]

    exact, plain = (
        torch.cat([oracle.attention(*history(b, kind), lengths[b : b + 1], rows=L, **layout) for b in range(len(q))])
        for kind in (torch.float64, dtype)
    )
    check_error(out, plain, exact)
    for b, position in enumerate(positions):
        alone = (x[b : b + 1] for x in (*steps, *caches))
        again = decode_attention(*alone, torch.tensor([position]), lengths[b : b + 1], **layout, backend="triton")
        assert torch.equal(again, out[b : b + 1]), "the bits of a row depend on its batch"


def test_the_reference_is_not_run(monkeypatch):
    ran = []
    for module, name in ((attention_triton, "attention_triton"), (decode_attention_triton, "decode_attention_triton")):
        monkeypatch.setattr(module, name, lambda *args, name=name, **options: ran.append(name))
    q, zero = torch.zeros(1, 1, 1, 16), torch.tensor([0])
    attention(q, q, q, q, zero, prefix=0, frame_size=1, window=1, backend="triton")
    decode_attention(q, q, q, q, zero, zero, prefix=0, frame_size=1, window=1, backend="triton")
    assert ran == ["attention_triton", "decode_attention_triton"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_sweep(oracle, seed):
    """Random sizes: `attention` against the oracle, and `decode_attention` over its last tokens."""
    random = np.random.default_rng(seed)
    dtype = [torch.float32, torch.bfloat16][seed % 2]
    K, group, E = int(random.integers(1, 4)), int(random.integers(1, 5)), 16 * int(random.integers(1, 9))
    layout = {
        "prefix": int(random.integers(0, 80)),
        "frame_size": int(random.integers(1, 20)),
        "window": int(random.integers(1, 5)),
    }
    B, L, video = int(random.integers(1, 3)), int(random.integers(1, 20)), int(random.integers(20, 150))
    lengths = torch.tensor(random.integers(0, layout["prefix"] + 1, B))
    tensors = draw(dtype, B, layout["prefix"] + video, group * K, K, E)
    exact = oracle.attention(*(x.double() for x in tensors), lengths, **layout)
    plain = oracle.attention(*tensors, lengths, **layout)
    check_error(attention(*tensors, lengths, **layout, backend="triton"), plain, exact)
    ring, positions = oracle.least_ring(L, **layout), [video - L] * B
    caches = [oracle.ring_cache(x, positions, L, lengths, **layout, ring=ring) for x in tensors[2:]]
    steps = [x[:, -L:] for x in tensors[:2]]
    out = decode_attention(*steps, *caches, torch.tensor(positions), lengths, **layout, backend="triton")
    check_error(out, plain[:, -L:], exact[:, -L:])
