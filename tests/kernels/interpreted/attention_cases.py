"""`attention` in Triton's interpreter (conftest.py tells how)."""

import numpy as np
import pytest
import torch

from reelm.kernels import attention_triton
from reelm.kernels.attention import attention


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
def test_attention(oracle, check_error, dtype, N, K, E, prefix, video, frame_size, window, lengths):
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


def test_the_reference_is_not_run(monkeypatch):
    ran = []
    monkeypatch.setattr(attention_triton, "attention_triton", lambda *args, **options: ran.append(args))
    q, zero = torch.zeros(1, 1, 1, 16), torch.tensor([0])
    attention(q, q, q, q, zero, prefix=0, frame_size=1, window=1, backend="triton")
    assert len(ran) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_sweep(oracle, check_error, seed):
    """Random sizes."""
    random = np.random.default_rng(seed)
    dtype = [torch.float32, torch.bfloat16][seed % 2]
    K, group, E = int(random.integers(1, 4)), int(random.integers(1, 5)), 16 * int(random.integers(1, 9))
    layout = {
        "prefix": int(random.integers(0, 80)),
        "frame_size": int(random.integers(1, 20)),
        "window": int(random.integers(1, 5)),
    }
    B, video = int(random.integers(1, 3)), int(random.integers(20, 150))
    lengths = torch.tensor(random.integers(0, layout["prefix"] + 1, B))
    tensors = draw(dtype, B, layout["prefix"] + video, group * K, K, E)
    exact = oracle.attention(*(x.double() for x in tensors), lengths, **layout)
    plain = oracle.attention(*tensors, lengths, **layout)
    check_error(attention(*tensors, lengths, **layout, backend="triton"), plain, exact)
