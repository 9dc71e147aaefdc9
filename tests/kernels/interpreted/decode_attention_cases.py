"""`decode_attention` in Triton's interpreter (conftest.py tells how)."""

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.kernels import decode_attention_triton
from reelm.kernels.decode_attention import decode_attention

EVERY_OPTION = {"ancestors": True, "query_positions": True, "int8": True}


def converted(arguments, dtype):
    """The arguments with queries and float caches in this dtype; an int8 cache and its scales stay as they are."""
    return {
        name: x.to(dtype) if name[-4:] in ("BLNE", "BKCE") and x.dtype != torch.int8 else x
        for name, x in arguments.items()
    }


def alone(arguments, b):
    """Row b by itself."""
    B = len(arguments["positions_B"])
    return {name: x[b : b + 1] if torch.is_tensor(x) and len(x) == B else x for name, x in arguments.items()}


def sizes(K, group, E, prefix, frame_size, window, positions, lengths, **more):
    return {"K": K, "group": group, "E": E, "prefix": prefix, "frame_size": frame_size, "window": window,
            "positions": positions, "lengths": lengths} | more  # fmt: skip


F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
DECODE = {
    # K, group, E, prefix, frame_size, window, positions, lengths
    "at the start and wrapped": (F32, sizes(2, 2, 16, 5, 4, 3, (0, 7, 100), (0, 3, 5))),
    "five, odd sizes, padded head": (F32, sizes(2, 3, 48, 3, 7, 2, (3, 61), (3, 1), L=5, spare=1)),
    "one slot": (F32, sizes(1, 1, 16, 0, 1, 1, (0,), (0,))),
    "rows over one block": (F32, sizes(1, 2, 16, 2, 16, 2, (37,), (2,), L=64)),
    "several splits, some empty": (F32, sizes(1, 2, 16, 300, 16, 19, (20, 700), (290, 0))),
    "rows of several latent frames": (F32, sizes(1, 2, 16, 2, 64, 3, (240,), (1,), L=40)),
    "full blocks across the end of the ring": (F32, sizes(1, 1, 16, 70, 64, 3, (500,), (66,), L=2)),
    "bf16": (BF16, sizes(2, 3, 32, 5, 16, 4, (0, 500), (0, 5), L=3)),
    "bf16, splits of the ring": (BF16, sizes(1, 2, 128, 9, 16, 33, (1000,), (9,))),
    "fp16": (F16, sizes(2, 1, 80, 3, 4, 2, (30,), (2,), L=2)),
    "before the start, prefix seen later": (
        F32,
        sizes(1, 2, 16, 5, 4, 3, (-1, 6, 11, 40), (5, 5, 3, 5), L=3, prefix_from=3),
    ),
    "prefix seen later, splits": (BF16, sizes(1, 2, 32, 300, 16, 19, (-1, 15, 700), (300, 300, 290), prefix_from=1)),
    "tree": (F32, sizes(1, 2, 16, 3, 4, 3, (0, 50), (3, 0), L=5, A=9, ancestors=True, query_positions=True)),
    "tree over blocks": (F32, sizes(1, 1, 16, 0, 16, 2, (37,), (0,), L=3, A=80, ancestors=True)),
    "diagonal": (BF16, sizes(1, 4, 32, 2, 8, 2, (20,), (2,), L=8, query_positions=True)),
    "int8": (F32, sizes(2, 2, 16, 5, 4, 3, (0, 57), (5, 1), int8=True)),
    "int8, bf16": (BF16, sizes(1, 2, 64, 5, 16, 3, (300,), (5,), L=2, int8=True)),
    "everything": (F32, sizes(2, 2, 16, 5, 4, 3, (3, 90, 14), (5, 0, 2), L=3, A=7, **EVERY_OPTION)),
    "everything, bf16, splits": (BF16, sizes(1, 2, 32, 40, 32, 16, (3, 999), (33, 40), L=2, A=40, **EVERY_OPTION)),
}


def check(oracle, check_error, arguments):
    exact = oracle.decode_attention(**converted(arguments, torch.float64))
    out = decode_attention(**arguments, backend="triton")
    check_error(out, oracle.decode_attention(**arguments), exact)
    assert out[exact.eq(0).all(-1)].eq(0).all()
    for b in range(len(out)):
        again = decode_attention(**alone(arguments, b), backend="triton")
        assert torch.equal(again, out[b : b + 1]), "the bits of a row depend on its batch"


@pytest.mark.parametrize("case", list(DECODE))
def test_decode_attention(oracle, check_error, case):
    dtype, options = DECODE[case]
    check(oracle, check_error, oracle.decode_arguments(len(case), dtype, **options))


@st.composite
def cases(draw):
    """The arguments of `oracle.decode_arguments`."""
    prefix = draw(st.integers(0, 80) | st.integers(450, 600))  # one split, several
    ancestors, L, B = draw(st.booleans()), draw(st.integers(1, 20)), draw(st.integers(1, 2))
    return {
        "seed": draw(st.integers(0, 1000)), "dtype": draw(st.sampled_from([F32, BF16])),
        "K": draw(st.integers(1, 2)), "group": draw(st.integers(1, 4)), "E": 16 * draw(st.integers(1, 8)),
        "prefix": prefix, "frame_size": draw(st.integers(1, 20)), "window": draw(st.integers(1, 5)),
        # Before the start, at it, inside the first turn of the ring, many turns later.
        "positions": [draw(st.integers(-1, 400)) for _ in range(B)],
        "lengths": [draw(st.integers(0, prefix)) for _ in range(B)],
        "L": L, "A": L + draw(st.integers(0, 100)) if ancestors else L, "spare": draw(st.integers(0, 3)),
        "ancestors": ancestors, "prefix_from": draw(st.sampled_from([0, 0, 1, 4])),
    } | {name: draw(st.booleans()) for name in ("query_positions", "int8")}  # fmt: skip


def test_sizes_and_options_that_hypothesis_draws(examples, oracle, check_error):
    @examples
    @given(cases())
    def is_right(case):
        check(oracle, check_error, oracle.decode_arguments(**case))

    is_right()


def test_an_int8_cache_with_tiny_scales_keeps_the_precision_of_float16(oracle):
    # Weights times such scales would be subnormal, if not 0.
    options = sizes(1, 2, 16, 0, 16, 2, (50,), (0,), int8=True)
    arguments = oracle.decode_arguments(0, torch.float16, **options)
    arguments["v_scales_BKC"] *= 2**-10
    exact = oracle.decode_attention(**converted(arguments, torch.float64))
    out = decode_attention(**arguments, backend="triton")
    # Measured where float16 has all its digits: the scales only move the exponent.
    wide = decode_attention(**converted(arguments, torch.float32), backend="triton")
    assert (wide - exact).norm() < 1e-5 * exact.norm()
    assert (out - exact).norm() < 2**-9 * exact.norm()


def test_values_with_a_scale_of_zero_are_zero(oracle):
    arguments = oracle.decode_arguments(0, torch.float32, **sizes(1, 1, 16, 4, 4, 2, (9,), (4,), int8=True))
    arguments["v_cache_BKCE"].zero_(), arguments["v_scales_BKC"].zero_()
    assert decode_attention(**arguments, backend="triton").eq(0).all()


@pytest.mark.parametrize("x", ["k_cache_BKCE", "v_cache_BKCE", "k_scales_BKC", "v_scales_BKC"])
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
def test_nan_in_a_visible_slot_is_not_hidden(oracle, x):
    options = sizes(1, 1, 16, 0, 4, 2, (9,), (0,), int8="scales" in x)
    arguments = oracle.decode_arguments(0, torch.float32, **options)
    assert decode_attention(**arguments, backend="triton").isfinite().all()
    arguments[x][:, :, 9 % 8] = float("nan")
    assert decode_attention(**arguments, backend="triton").isnan().all()


@pytest.mark.parametrize("prefix", [0, 600], ids=["one split", "combined"])
def test_a_query_that_sees_nothing_gets_zeros(oracle, prefix):
    options = sizes(1, 2, 16, prefix, 4, 2, (0, 9), (0, 0), L=2, A=3)
    arguments = oracle.decode_arguments(0, torch.float32, **options)
    ancestors = torch.tensor([[[False, False, False], [True, False, False]]])
    out = decode_attention(**arguments, ancestors_BLA=ancestors, backend="triton")
    assert out[0, 0].eq(0).all() and out[0, 1].ne(0).all() and out[1].ne(0).all()


def test_a_query_after_all_known_windows_sees_its_ancestors_alone(oracle):
    arguments = oracle.decode_arguments(0, torch.float32, **sizes(1, 1, 16, 0, 4, 2, (12,), (0,), A=3))
    options = {"ancestors_BLA": torch.tensor([[[False, True, False]]]), "query_positions_BL": torch.tensor([[400]])}
    for name in ("k_cache_BKCE", "v_cache_BKCE"):
        arguments[name][:, :, 13 % arguments[name].shape[2]] = 7.0
    assert decode_attention(**arguments, **options, backend="triton").eq(7).all()


@pytest.mark.parametrize("options", [{}, {"A": 5, "ancestors": True, "query_positions": True}], ids=["run", "tree"])
def test_positions_beyond_32_bits_are_as_good_as_others(oracle, options):
    arguments = oracle.decode_arguments(
        0, torch.float32, **sizes(1, 2, 16, 3, 16, 3, (1000, 55), (3, 0), L=3), **options
    )
    ring = arguments["k_cache_BKCE"].shape[2] - 3
    later = (2**33 + 2**31) // ring * ring + ring
    moved = {name: arguments[name] + later for name in ("positions_B", "query_positions_BL") if name in arguments}
    if options:  # a query before its row's first slot counts as at it, however far before
        arguments["query_positions_BL"][0, 1] = moved["query_positions_BL"][0, 1] = 5
    for backend in ("triton", "reference"):
        expected = decode_attention(**arguments, backend=backend)
        assert torch.equal(decode_attention(**(arguments | moved), backend=backend), expected)


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_a_length_beyond_the_prefix_reads_no_further(oracle, backend):
    arguments = oracle.decode_arguments(0, torch.float32, **sizes(1, 1, 16, 3, 4, 2, (9,), (3,)))
    expected = decode_attention(**arguments, backend=backend)
    arguments["prefix_lengths_B"] += 10**6
    assert torch.equal(decode_attention(**arguments, backend=backend), expected)


def test_any_strides_are_taken(oracle):
    options = sizes(2, 2, 16, 5, 4, 3, (3, 90), (5, 0), L=3, A=7)
    for int8 in (False, True):
        arguments = oracle.decode_arguments(0, torch.float32, **options, **(EVERY_OPTION | {"int8": int8}))
        expected = decode_attention(**arguments, backend="triton")
        strided = {
            name: torch.stack([x, x], -1)[..., 0] if torch.is_tensor(x) and x.ndim < 4 else x
            for name, x in arguments.items()
        }
        for name, (first, second) in {"k_cache_BKCE": (1, 2), "v_cache_BKCE": (2, 3), "q_BLNE": (0, 2)}.items():
            strided[name] = strided[name].transpose(first, second).contiguous().transpose(first, second)
        assert torch.equal(decode_attention(**strided, backend="triton"), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_offsets_beyond_two_to_the_31_are_reached(oracle, axis):
    """Three rows, heads or slots, 2 ** 30 elements apart in memory that is never touched between them."""
    options = [
        sizes(1, 1, 16, 1, 1, 1, (1, 2, 4), (1, 1, 1)),
        sizes(3, 1, 16, 1, 1, 1, (2,), (1,)),
        sizes(1, 1, 16, 1, 1, 2, (3,), (1,)),
    ][axis]
    arguments = oracle.decode_arguments(0, torch.float16, **options, int8=True)
    expected = decode_attention(**arguments, backend="triton")
    cache = arguments["k_cache_BKCE"]
    assert cache.shape[axis] == 3
    strides = [2**30 if i == axis else stride for i, stride in enumerate(cache.stride())]
    storage = torch.UntypedStorage(2**31 + cache.numel(), device=cache.device)
    far = torch.tensor([], dtype=torch.int8).set_(storage, 0, cache.shape, strides)
    for name in ("k_cache_BKCE", "v_cache_BKCE"):
        out = decode_attention(**(arguments | {name: far.copy_(arguments[name])}), backend="triton")
        assert torch.equal(out, expected)


def count_blocks(monkeypatch, arguments):
    """(blocks without a mask, blocks with one) that all programs together walk."""
    blocks, attend = [], decode_attention_triton._attend

    def counted(*args, **options):
        blocks.append(args[10] is None)
        return attend(*args, **options)

    monkeypatch.setattr(decode_attention_triton, "_attend", counted)
    decode_attention(**arguments, backend="triton")
    monkeypatch.undo()
    return sum(blocks), len(blocks) - sum(blocks)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="looks into a kernel")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (sizes(1, 1, 16, 0, 64, 4, (191,), (0,)), (3, 0)),  # 192 places, all seen
        (sizes(1, 1, 16, 0, 64, 4, (200,), (0,)), (3, 1)),  # 201, of which 9 lie in a block of 32
        (sizes(1, 1, 16, 0, 64, 2, (10_000,), (0,)), (1, 1)),  # 81: what lies before the window is skipped
        (sizes(1, 1, 16, 100, 64, 2, (63,), (65,)), (1, 2)),  # two blocks of the prefix
        (sizes(1, 1, 16, 0, 64, 2, (127,), (0,), L=2), (1, 2)),  # 64 places before the second query's window
        (sizes(1, 4, 16, 0, 64, 4, (176,), (0,), L=16), (2, 4)),  # 64 rows in one program, whose edge goes by 16
        (sizes(1, 4, 16, 0, 64, 4, (160,), (0,), L=32), (4, 7)),  # 128 rows in two
        (sizes(1, 1, 16, 0, 64, 9, (700,), (0,)), (8, 2)),  # splits of 256: 4, 4, then 61 places
    ],
)
def test_only_blocks_at_the_edges_of_the_mask_are_masked(oracle, monkeypatch, options, expected):
    arguments = oracle.decode_arguments(0, torch.bfloat16, **options)
    assert count_blocks(monkeypatch, arguments) == expected


def test_splits_are_counted_from_the_window_and_one_needs_no_second_kernel(oracle, monkeypatch):
    short = oracle.decode_arguments(0, torch.float32, **sizes(1, 1, 16, 8, 64, 7, (70,), (8,), spare=40))
    longer = oracle.decode_arguments(0, torch.float32, **sizes(1, 1, 16, 8, 64, 8, (70,), (8,)))
    monkeypatch.setattr(decode_attention_triton, "_combine_kernel", None)
    assert decode_attention(**short, backend="triton").isfinite().all()
    with pytest.raises(TypeError, match="NoneType"):
        decode_attention(**longer, backend="triton")


def test_split_sizes_leave_enough_programs_and_small_parts():
    for slots in range(1, 100_000, 37):
        split = decode_attention_triton.split_size(slots)
        assert split % 64 == 0 and (split <= 512 or 22 < slots / split < 46)
    assert [decode_attention_triton.split_size(n) for n in (512, 513, 4096 + 32, 16384 + 32)] == [512, 256, 256, 512]


@pytest.mark.parametrize("options", [{}, {"L": 3, "A": 4, **EVERY_OPTION}], ids=["plain", "every option"])
def test_the_registered_op_is_compiled_whole(oracle, options):
    arguments = oracle.decode_arguments(0, torch.float32, **sizes(1, 2, 16, 2, 4, 2, (9, 30), (0, 2)), **options)
    expected = decode_attention(**arguments, backend="triton")
    torch._dynamo.reset()
    whole = torch.compile(decode_attention, fullgraph=True, backend="aot_eager")
    assert torch.equal(whole(**arguments, backend="triton"), expected)
    names = ("q_BLNE", "q_prefix_BLNE", "k_cache_BKCE", "v_cache_BKCE", "positions_B", "prefix_lengths_B",
             "ancestors_BLA", "query_positions_BL", "k_scales_BKC", "v_scales_BKC",
             "prefix", "frame_size", "window", "prefix_from")  # fmt: skip
    torch.library.opcheck(torch.ops.reelm.decode_attention.default, [arguments.get(name) for name in names])


def test_the_reference_is_not_run(monkeypatch):
    ran = []
    monkeypatch.setattr(decode_attention_triton, "decode_attention_triton", lambda *args, **options: ran.append(args))
    q, zero = torch.zeros(1, 1, 1, 16), torch.tensor([0])
    decode_attention(q, q, q, q, zero, zero, prefix=0, frame_size=1, window=1, backend="triton")
    assert len(ran) == 1


@pytest.mark.parametrize("change", ["rows", "heads"])
def test_what_the_kernel_cannot_serve_is_left_to_the_reference(monkeypatch, change):
    monkeypatch.setattr(decode_attention_triton, "decode_attention_triton", None)
    B, E = (65536, 16) if change == "rows" else (1, 20)
    q, zeros = torch.ones(B, 1, 1, E), torch.zeros(B, dtype=torch.int64)
    out = decode_attention(q, q, q, q, zeros, zeros, prefix=0, frame_size=1, window=1, backend="triton")
    assert out.eq(1).all()


@pytest.mark.parametrize("empty", ["rows", "heads"])
def test_nothing_in_nothing_out(empty):
    q = torch.zeros(0, 1, 2, 16) if empty == "rows" else torch.zeros(2, 1, 0, 16)
    cache, zeros = torch.zeros(len(q), 1, 4, 16), torch.zeros(len(q), dtype=torch.int64)
    for backend in ("triton", "reference"):
        out = decode_attention(q, q, cache, cache, zeros, zeros, prefix=0, frame_size=2, window=2, backend=backend)
        assert out.shape == q.shape
