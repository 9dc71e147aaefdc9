"""`decode_attention` on the reference, against a loop over queries and heads in float64, and against `attention`."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.kernels.attention import attention
from reelm.kernels.decode_attention import decode_attention
from reelm.kernels.decode_attention_reference import slot_mask
from reelm.tests.examples import examples


@examples(120)
@given(data=st.data())
def test_a_step_equals_the_oracle_and_never_reads_a_slot_that_nobody_sees(oracle, data):
    draw = data.draw
    layout = {
        "prefix": draw(st.integers(0, 5)), "frame_size": draw(st.integers(1, 4)), "window": draw(st.integers(1, 3))
    }  # fmt: skip
    ancestors, L = draw(st.booleans()), draw(st.integers(1, 6))
    A = L + draw(st.integers(0, 5)) if ancestors else L
    spare = draw(st.integers(0, 2))
    ring = oracle.least_ring(A, **layout) + layout["frame_size"] * spare
    # Rows at places of their own: before the start, at it, inside the first turn of the ring, many turns later.
    positions = draw(st.lists(st.integers(-1, 5 * ring), min_size=1, max_size=3))
    arguments = oracle.decode_arguments(
        draw(st.integers(0, 1000)), torch.float64, **layout, L=L, A=A, spare=spare,
        K=draw(st.integers(1, 2)), group=draw(st.integers(1, 3)), E=draw(st.integers(1, 9)),
        positions=positions, lengths=[draw(st.integers(0, layout["prefix"])) for _ in positions],
        ancestors=ancestors, query_positions=draw(st.booleans()),
        int8=draw(st.booleans()), prefix_from=draw(st.sampled_from([0, 0, 1, 3])),
    )  # fmt: skip
    out = decode_attention(**arguments, backend="reference")
    torch.testing.assert_close(out, oracle.decode_attention(**arguments))


def test_a_mask_made_before_is_the_one_that_is_used(oracle):
    layout = {"prefix": 2, "frame_size": 3, "window": 2}
    arguments = oracle.decode_arguments(
        0, torch.float32, **layout, L=2, K=1, group=2, E=4, positions=[7, 3], lengths=[2, 1]
    )
    positions, lengths, slots = (arguments[name] for name in ("positions_B", "prefix_lengths_B", "k_cache_BKCE"))
    mask = slot_mask(2, slots.shape[2], positions, lengths, **layout)
    plain = decode_attention(**arguments, backend="reference")
    assert torch.equal(decode_attention(**arguments, mask_BLC=mask, backend="reference"), plain)
    mask[1, :, 0] = -torch.inf
    fewer = decode_attention(**arguments, mask_BLC=mask, backend="reference")
    lengths[1] = 0
    assert torch.equal(fewer, decode_attention(**arguments, backend="reference"))


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


def test_every_path_of_a_tree_equals_its_tokens_one_after_the_other():
    torch.manual_seed(0)
    layout, position, ring = {"prefix": 3, "frame_size": 4, "window": 3}, 37, 20
    parents = [None, 0, 0, 1, 1, 2, 3]
    paths = [[0]]
    for node, parent in enumerate(parents[1:], 1):
        paths.append([*paths[parent], node])
    L, lengths = len(parents), torch.tensor([3])
    cache = torch.randn(2, 1, 2, 3 + ring, 8, dtype=torch.float64)
    q, q_prefix = torch.randn(2, 1, L, 4, 8, dtype=torch.float64)
    k, v = torch.randn(2, 1, 2, L, 8, dtype=torch.float64)
    ancestors = torch.tensor([[[node in path for node in range(L)] for path in paths]])
    depths = torch.tensor([[len(path) - 1 for path in paths]])

    def with_slots(nodes):
        filled = cache.clone()
        filled[..., 3 + torch.arange(position, position + len(nodes)) % ring, :] = torch.stack([k, v])[..., nodes, :]
        return filled

    tree = decode_attention(
        q, q_prefix, *with_slots(range(L)), torch.tensor([position]), lengths, **layout,
        ancestors_BLA=ancestors, query_positions_BL=position + depths,
    )  # fmt: skip
    for node, path in enumerate(paths):
        last = torch.tensor([position + len(path) - 1])
        steps = (q[:, [node]], q_prefix[:, [node]], *with_slots(path))
        torch.testing.assert_close(decode_attention(*steps, last, lengths, **layout), tree[:, [node]])


def test_a_mask_of_everything_before_equals_no_mask_inside_the_window(oracle):
    sizes = {"K": 2, "group": 2, "E": 8, "prefix": 2, "frame_size": 8, "window": 2, "L": 5}
    arguments = oracle.decode_arguments(0, torch.float64, **sizes, positions=[19, 88], lengths=[0, 2])
    expected = decode_attention(**arguments)
    triangle = torch.ones(1, 5, 5, dtype=torch.bool).tril()
    torch.testing.assert_close(decode_attention(**arguments, ancestors_BLA=triangle), expected)
    assert not torch.equal(decode_attention(**arguments, ancestors_BLA=triangle.tril(-1)), expected)


def test_a_query_in_a_later_latent_frame_sees_less_of_the_known_ones(oracle):
    sizes = {"K": 1, "group": 1, "E": 8, "prefix": 0, "frame_size": 4, "window": 2}
    arguments = oracle.decode_arguments(0, torch.float64, **sizes, positions=[12], lengths=[0], spare=2)
    itself = torch.ones(1, 1, 1, dtype=torch.bool)

    def at(position):
        return decode_attention(**arguments, ancestors_BLA=itself, query_positions_BL=torch.tensor([[position]]))

    assert torch.equal(at(15), at(12)) and torch.equal(at(3), at(12)), "the same window"
    assert not torch.equal(at(16), at(12)), "none of the frame that the default sees before its own"
    assert torch.equal(at(20), at(400)), "nothing but itself"
    torch.testing.assert_close(at(400)[0, 0, 0], arguments["v_cache_BKCE"][0, 0, 12 % 16])


def test_a_query_that_sees_nothing_gets_zeros(oracle):
    sizes = {"K": 1, "group": 2, "E": 8, "prefix": 0, "frame_size": 4, "window": 2, "L": 2, "A": 3}
    arguments = oracle.decode_arguments(0, torch.float64, **sizes, positions=[0, 9], lengths=[0, 0])
    ancestors = torch.tensor([[[False, False, False], [True, False, False]]])
    out = decode_attention(**arguments, ancestors_BLA=ancestors)
    assert out[0, 0].eq(0).all() and out[0, 1].ne(0).all() and out[1].ne(0).all()


def test_an_int8_cache_costs_less_than_a_hundredth(oracle):
    sizes = {"K": 4, "group": 2, "E": 64, "prefix": 16, "frame_size": 16, "window": 16}
    exact = oracle.decode_arguments(0, torch.float64, **sizes, positions=[1000, 300], lengths=[16, 9], spare=1)
    cached = dict(exact)
    for x in "kv":
        cache = exact[f"{x}_cache_BKCE"]
        scales = cache.abs().amax(-1) / 127
        cached[f"{x}_scales_BKC"] = scales.float()
        cached[f"{x}_cache_BKCE"] = (cache / scales[..., None]).nan_to_num().round().to(torch.int8)
    expected = oracle.decode_attention(**exact)
    for dtype in (torch.float64, torch.float32):
        queries = {name: cached[name].to(dtype) for name in ("q_BLNE", "q_prefix_BLNE")}
        error = (decode_attention(**(cached | queries)) - expected).norm() / expected.norm()
        assert 1e-3 < error < 1e-2, "the rounding of absmax / 127 scales, and no more"


@examples(100)
@given(frame_size=st.integers(1, 6), window=st.integers(1, 4), L=st.integers(1, 20), extra=st.integers(0, 9),
       short=st.booleans())  # fmt: skip
def test_the_shortest_ring_is_taken_and_the_next_shorter_one_refused(oracle, frame_size, window, L, extra, short):
    layout = {"prefix": 2, "frame_size": frame_size, "window": window}
    ring = oracle.least_ring(L + extra, aligned=extra > 0, **layout) - short * frame_size
    q, cache, numbers = torch.zeros(1, L, 1, 4), torch.zeros(1, 1, 2 + ring, 4), torch.zeros(1, dtype=torch.int64)
    ancestors = torch.ones(1, L, L + extra, dtype=torch.bool) if extra else None
    if short:
        with pytest.raises(ReelmError, match=r"^k_cache_BKCE: must have a ring"):
            decode_attention(q, q, cache, cache, numbers, numbers, **layout, ancestors_BLA=ancestors)
    else:
        out = decode_attention(q, q, cache, cache, numbers, numbers, **layout, ancestors_BLA=ancestors)
        assert out.shape == q.shape


def test_infinity_in_a_hidden_slot_does_not_leak_and_nan_in_a_visible_one_is_not_hidden():
    cache = torch.zeros(1, 1, 8, 4)
    cache[:, :, 5:] = float("inf")
    q, position, length = torch.zeros(1, 1, 1, 4), torch.tensor([4]), torch.tensor([0])
    arguments = {"prefix": 0, "frame_size": 2, "window": 3}
    assert decode_attention(q, q, cache, cache, position, length, **arguments).eq(0).all()
    cache[:, :, 4] = float("nan")
    assert decode_attention(q, q, torch.zeros_like(cache), cache, position, length, **arguments).isnan().all()


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_dtype_keeps_its_own(dtype, int8):
    q, cache = torch.ones(2, 1, 2, 4, dtype=dtype), torch.ones(2, 1, 4, 4, dtype=torch.int8 if int8 else dtype)
    zero, scales = torch.tensor([0, 0]), torch.ones(2, 1, 4) if int8 else None
    out = decode_attention(
        q, q, cache, cache, zero, zero, prefix=0, frame_size=2, window=2, k_scales_BKC=scales, v_scales_BKC=scales
    )
    assert out.dtype == dtype and out.eq(1).all()


@pytest.mark.parametrize("options", [{}, {"L": 3, "A": 4, "ancestors": True, "query_positions": True, "int8": True}],
                         ids=["plain", "all options"])  # fmt: skip
def test_the_reference_is_compiled_whole(oracle, options):
    sizes = {"K": 1, "group": 2, "E": 8, "prefix": 2, "frame_size": 4, "window": 2} | options
    arguments = oracle.decode_arguments(0, torch.float32, **sizes, positions=[9, 30], lengths=[0, 2])
    whole = torch.compile(decode_attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(**arguments), decode_attention(**arguments))


INT8 = {"k_cache_BKCE": torch.zeros(1, 2, 6, 8).char(), "v_cache_BKCE": torch.zeros(1, 2, 6, 8).char()}
SCALES = {"k_scales_BKC": torch.zeros(1, 2, 6), "v_scales_BKC": torch.zeros(1, 2, 6)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q_prefix_BLNE": torch.zeros(1, 1, 2, 8)}, r"q_prefix_BLNE: must have the shape \(1, 1, 4, 8\)"),
        ({"k_cache_BKCE": torch.zeros(1, 3, 6, 8)}, r"k_cache_BKCE: must have a number of heads that divides 4 \(N\)"),
        ({"k_cache_BKCE": torch.zeros(2, 2, 6, 8)}, r"k_cache_BKCE: must have the shape \(1, 2, 6, 8\)"),
        ({"v_cache_BKCE": torch.zeros(1, 2, 8, 8)}, r"v_cache_BKCE: must have the shape \(1, 2, 6, 8\)"),
        ({"v_cache_BKCE": torch.zeros(1, 2, 6, 8).half()}, "v_cache_BKCE: must be torch.float32"),
        ({"v_cache_BKCE": torch.zeros(1, 2, 6, 8, device="meta")}, "v_cache_BKCE: must be on cpu as q_BLNE is"),
        ({"positions_B": torch.zeros(1, dtype=torch.int32)}, "positions_B: must be torch.int64"),
        ({"positions_B": torch.zeros(1, 1, dtype=torch.int64)}, r"positions_B: must have the shape \(1,\)"),
        ({"prefix_lengths_B": torch.zeros(1)}, "prefix_lengths_B: must be torch.int64 or torch.int32"),
        ({"prefix": -1}, "prefix: must be at least 0, got -1"),
        ({"prefix": 3}, r"k_cache_BKCE: must have a ring \(C - prefix\) of whole frames of 2"),
        ({"window": 3}, r"k_cache_BKCE: must have a ring \(C - prefix\) of at least 6 slots, got 4"),
        ({"window": 0}, "window: must be at least 1, got 0"),
        ({"frame_size": 0}, "frame_size: must be at least 1, got 0"),
        ({"prefix_from": -1}, "prefix_from: must be at least 0, got -1"),
        ({"ancestors_BLA": torch.ones(1, 1, 3).bool()}, r"k_cache_BKCE: must have a ring .* at least 5 slots, got 4"),
        ({"ancestors_BLA": torch.ones(2, 1, 1).bool()}, r"ancestors_BLA: must have the shape \(1, 1\)"),
        ({"ancestors_BLA": torch.ones(1, 1, 0).bool()}, r"ancestors_BLA: must .* at least 1 \(L\) slots"),
        ({"ancestors_BLA": torch.ones(1, 1, 1)}, "ancestors_BLA: must be torch.bool"),
        ({"query_positions_BL": torch.zeros(1, 2, dtype=torch.int64)}, "query_positions_BL: must have the shape"),
        ({"query_positions_BL": torch.zeros(1, 1)}, "query_positions_BL: must be torch.int64"),
        ({"mask_BLC": torch.zeros(1, 1, 5)}, r"mask_BLC: must have the shape \(1, 1, 6\)"),
        ({"mask_BLC": torch.zeros(1, 1, 6).bool()}, "mask_BLC: must be torch.float32"),
        (INT8, "k_scales_BKC: must be given with a cache of int8, got None"),
        (INT8 | SCALES | {"v_scales_BKC": None}, "v_scales_BKC: must be given with a cache of int8, got None"),
        (INT8 | SCALES | {"v_cache_BKCE": torch.zeros(1, 2, 6, 8)}, "v_cache_BKCE: must be torch.int8"),
        (INT8 | SCALES | {"k_scales_BKC": torch.zeros(1, 2, 6).half()}, "k_scales_BKC: must be torch.float32"),
        (INT8 | SCALES | {"v_scales_BKC": torch.zeros(1, 2, 5)}, "v_scales_BKC: must have the shape"),
        (SCALES, "k_scales_BKC: must be None, the cache not being int8"),
        ({"v_scales_BKC": torch.zeros(1, 2, 6)}, "v_scales_BKC: must be None, the cache not being int8"),
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
