"""`decode_attention` on the reference, against a loop over rows and heads in float64, and against `attention`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.kernels.attention import attention
from reelm.kernels.decode_attention import decode_attention


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_step_equals_the_oracle_and_never_reads_a_slot_that_nobody_sees(oracle, data):
    draw = data.draw
    B, K, group, E = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 9))
    layout = {
        "prefix": draw(st.integers(0, 5)), "frame_size": draw(st.integers(1, 4)), "window": draw(st.integers(1, 3))
    }  # fmt: skip
    L = draw(st.integers(1, 6))
    ring = oracle.least_ring(L, **layout) + layout["frame_size"] * draw(st.integers(0, 2))
    # Rows at places of their own: at the start, inside the first turn of the ring, many turns later.
    positions = [draw(st.integers(0, 5 * ring)) for _ in range(B)]
    lengths = torch.tensor([draw(st.integers(0, layout["prefix"])) for _ in range(B)])
    random = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    S = layout["prefix"] + max(positions) + L
    q, q_prefix, k, v = (
        torch.randn(B, S, heads, E, dtype=torch.float64, generator=random) for heads in (K * group, K * group, K, K)
    )
    caches = [oracle.ring_cache(x, positions, L, lengths, **layout, ring=ring) for x in (k, v)]
    steps = [oracle.tokens_at(x, positions, L, layout["prefix"]) for x in (q, q_prefix)]
    out = decode_attention(*steps, *caches, torch.tensor(positions), lengths, **layout, backend="reference")
    expected = [
        oracle.attention(*(x[b : b + 1, : layout["prefix"] + positions[b] + L] for x in (q, q_prefix, k, v)),
                         lengths[b : b + 1], rows=L, **layout)
        for b in range(B)
    ]  # fmt: skip
    torch.testing.assert_close(out, torch.cat(expected))


@pytest.mark.parametrize("L", [1, 3, 8])
def test_a_whole_history_step_by_step_equals_attention_over_it(oracle, L):
    torch.manual_seed(L)
    B, N, K, E, video = 3, 6, 2, 8, 96
    layout = {"prefix": 5, "frame_size": 4, "window": 2}
    prefix, lengths = layout["prefix"], torch.tensor([0, 3, 5])
    q, q_prefix, k, v = (torch.randn(B, prefix + video, heads, E, dtype=torch.float64) for heads in (N, N, K, K))
    whole = attention(q, k, v, q_prefix_BSNE=q_prefix, prefix_lengths_B=lengths, **layout)
    # One cache, written as a sampler writes it: no slot is ever cleaned.
    ring = oracle.least_ring(L, **layout)
    k_cache, v_cache = torch.full((2, B, K, prefix + ring, E), float("nan"), dtype=torch.float64)
    for cache, history in ((k_cache, k), (v_cache, v)):
        cache[:, :, :prefix] = history[:, :prefix].transpose(1, 2)
    for position in range(0, video, L):
        new = slice(prefix + position, prefix + position + L)
        slots = prefix + torch.arange(position, position + L) % ring
        k_cache[:, :, slots], v_cache[:, :, slots] = k[:, new].transpose(1, 2), v[:, new].transpose(1, 2)
        positions = torch.full((B,), position)
        out = decode_attention(q[:, new], q_prefix[:, new], k_cache, v_cache, positions, lengths, **layout)
        torch.testing.assert_close(out, whole[:, new])


@settings(max_examples=100, deadline=None)
@given(frame_size=st.integers(1, 6), window=st.integers(1, 4), L=st.integers(1, 20), short=st.booleans())
def test_the_shortest_ring_is_taken_and_the_next_shorter_one_refused(oracle, frame_size, window, L, short):
    layout = {"prefix": 2, "frame_size": frame_size, "window": window}
    ring = oracle.least_ring(L, **layout) - short * frame_size
    q, cache, numbers = torch.zeros(1, L, 1, 4), torch.zeros(1, 1, 2 + ring, 4), torch.zeros(1, dtype=torch.int64)
    if short:
        with pytest.raises(ReelmError, match=r"^k_cache_BKCE: must have a ring"):
            decode_attention(q, q, cache, cache, numbers, numbers, **layout)
    else:
        assert decode_attention(q, q, cache, cache, numbers, numbers, **layout).shape == q.shape


def test_infinity_in_a_hidden_slot_does_not_leak_and_nan_in_a_visible_one_is_not_hidden():
    cache = torch.zeros(1, 1, 8, 4)
    cache[:, :, 5:] = float("inf")
    q, position, length = torch.zeros(1, 1, 1, 4), torch.tensor([4]), torch.tensor([0])
    arguments = {"prefix": 0, "frame_size": 2, "window": 3}
    assert decode_attention(q, q, cache, cache, position, length, **arguments).eq(0).all()
    cache[:, :, 4] = float("nan")
    assert decode_attention(q, q, torch.zeros_like(cache), cache, position, length, **arguments).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_dtype_keeps_its_own(dtype):
    q, cache, zero = torch.ones(2, 1, 2, 4, dtype=dtype), torch.ones(2, 1, 4, 4, dtype=dtype), torch.tensor([0, 0])
    out = decode_attention(q, q, cache, cache, zero, zero, prefix=0, frame_size=2, window=2)
    assert out.dtype == dtype and out.eq(1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q_prefix_BLNE": torch.zeros(1, 1, 2, 8)}, "q_prefix_BLNE: must have the shape of q_BLNE"),
        ({"k_cache_BKCE": torch.zeros(1, 3, 6, 8)}, r"k_cache_BKCE: must have a number of heads that divides 4 \(N\)"),
        ({"k_cache_BKCE": torch.zeros(2, 2, 6, 8)}, "k_cache_BKCE: must have the shape"),
        ({"v_cache_BKCE": torch.zeros(1, 2, 8, 8)}, "v_cache_BKCE: must have the shape of k_cache_BKCE"),
        ({"v_cache_BKCE": torch.zeros(1, 2, 6, 8).half()}, "v_cache_BKCE: must be torch.float32"),
        ({"positions_B": torch.zeros(1, dtype=torch.int32)}, "positions_B: must be int64"),
        ({"positions_B": torch.zeros(1, 1, dtype=torch.int64)}, "positions_B: must have shape"),
        ({"prefix_lengths_B": torch.zeros(1)}, "prefix_lengths_B: must be int64 or int32"),
        ({"prefix": -1}, "prefix: must be at least 0, got -1"),
        ({"prefix": 3}, r"k_cache_BKCE: must have a ring \(C - prefix\) of whole frames of 2"),
        ({"window": 3}, r"k_cache_BKCE: must have a ring \(C - prefix\) of at least 6 slots, got 4"),
        ({"frame_size": 0}, "frame_size: must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    q, cache, zero = torch.zeros(1, 1, 4, 8), torch.zeros(1, 2, 6, 8), torch.zeros(1, dtype=torch.int64)
    arguments = {
        "q_BLNE": q, "q_prefix_BLNE": q, "k_cache_BKCE": cache, "v_cache_BKCE": cache,
        "positions_B": zero, "prefix_lengths_B": zero, "prefix": 2, "frame_size": 2, "window": 2,
    }  # fmt: skip
    with pytest.raises(ReelmError, match=f"^{message}"):
        decode_attention(**(arguments | changes))
