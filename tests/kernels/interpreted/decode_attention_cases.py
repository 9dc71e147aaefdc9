"""`decode_attention` in Triton's interpreter (conftest.py tells how)."""

import numpy as np
import pytest
import torch

from reelm.kernels import decode_attention_triton
from reelm.kernels.decode_attention import decode_attention


def draw(dtype, B, S, N, K, E):
    random = torch.Generator().manual_seed(S + E)
    return [torch.randn(B, S, heads, E, generator=random).to(dtype) for heads in (N, N, K, K)]


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
def test_decode_attention(
    oracle, check_error, dtype, N, K, E, L, prefix, frame_size, window, spare, positions, lengths
):
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
    monkeypatch.setattr(decode_attention_triton, "decode_attention_triton", lambda *args, **options: ran.append(args))
    q, zero = torch.zeros(1, 1, 1, 16), torch.tensor([0])
    decode_attention(q, q, q, q, zero, zero, prefix=0, frame_size=1, window=1, backend="triton")
    assert len(ran) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_sweep(oracle, check_error, seed):
    """Random sizes: the last tokens of a history."""
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
    exact = oracle.attention(*(x.double() for x in tensors), lengths, rows=L, **layout)
    plain = oracle.attention(*tensors, lengths, rows=L, **layout)
    ring, positions = oracle.least_ring(L, **layout), [video - L] * B
    caches = [oracle.ring_cache(x, positions, L, lengths, **layout, ring=ring) for x in tensors[2:]]
    steps = [x[:, -L:] for x in tensors[:2]]
    out = decode_attention(*steps, *caches, torch.tensor(positions), lengths, **layout, backend="triton")
    check_error(out, plain, exact)
