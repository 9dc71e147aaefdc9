"""`attention` on the reference, against a loop over rows and heads in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.kernels import attention_reference
from reelm.kernels.attention import attention
from reelm.tests.examples import examples


@pytest.fixture(autouse=True, scope="module")
def few_rows_at_a_time():
    """So that small cases are of several parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_reference, "ROWS", 3)
        yield


def call(tensors, lengths, layout):
    """The op on (q, q_prefix, k, v), on the reference."""
    q, q_prefix, k, v = tensors
    return attention(q, k, v, q_prefix_BSNE=q_prefix, prefix_lengths_B=lengths, **layout, backend="reference")


@st.composite
def cases(draw):
    """(q, q_prefix, k, v, lengths) and the layout; float64, with gradients."""
    B, K, group, E = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 9))
    prefix, video = draw(st.integers(0, 5)), draw(st.integers(0, 13))
    lengths = torch.tensor([draw(st.integers(0, prefix)) for _ in range(B)])
    mask = draw(st.sampled_from(["token", "frame", "full"]))
    window = None if mask == "full" else draw(st.sampled_from([None, 1, 2, 3]))
    layout = {"prefix": prefix, "frame_size": draw(st.integers(1, 4)), "window": window, "mask": mask}
    random = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    shapes = [(B, prefix + video, heads, E) for heads in (K * group, K * group, K, K)]
    tensors = [torch.randn(shape, dtype=torch.float64, generator=random, requires_grad=True) for shape in shapes]
    return tensors, lengths, layout


@examples(40)
@given(case=cases())
def test_values_and_gradients_equal_the_oracle(oracle, case):
    tensors, lengths, layout = case
    expected = oracle.attention(*tensors, lengths, **layout)
    out = call(tensors, lengths, layout)
    torch.testing.assert_close(out, expected)
    if out.numel() and expected.requires_grad:
        weight = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(0))
        wanted = torch.autograd.grad((expected * weight).sum(), tensors, materialize_grads=True)
        got = torch.autograd.grad((out * weight).sum(), tensors, materialize_grads=True)
        torch.testing.assert_close(got, wanted)


@examples(20)
@given(case=cases(), choice=st.integers(0, 1000))
def test_a_row_has_gradients_from_the_keys_that_it_sees_alone(oracle, case, choice):
    tensors, lengths, layout = case
    B, S = tensors[0].shape[:2]
    if S == 0:
        return
    row = choice % S
    out = call(tensors, lengths, layout)
    grads = torch.autograd.grad(out[:, row].square().sum(), tensors, materialize_grads=True)
    for b in range(B):
        touched = [(grad[b].abs().sum((1, 2)) > 0).nonzero().flatten().tolist() for grad in grads]
        seen = oracle.visible_keys(row, int(lengths[b]), video=S - layout["prefix"], **layout)
        assert set(touched[0]) | set(touched[1]) <= {row}
        assert set(touched[2]) <= set(seen)
        assert touched[3] == seen


def test_float32_is_as_good_as_plain_torch(oracle):
    torch.manual_seed(0)
    tensors = [torch.randn(2, 23, heads, 32) for heads in (4, 4, 2, 2)]
    lengths, layout = torch.tensor([3, 7]), {"prefix": 7, "frame_size": 4, "window": 2}
    exact = oracle.attention(*(x.double() for x in tensors), lengths, **layout)
    plain = oracle.attention(*tensors, lengths, **layout)
    out = call(tensors, lengths, layout)
    assert out.dtype == torch.float32
    assert (out - exact).norm() <= 2 * (plain - exact).norm()


@pytest.mark.parametrize("scale", [1.5, 30])
@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_is_rounded_at_the_end_alone(dtype, error, scale):
    torch.manual_seed(0)
    tensors = [
        torch.randn(2, 23, heads, 32).mul(scale).to(dtype) for heads, scale in ((4, 30), (4, 30), (2, 30), (2, 1))
    ]
    lengths, layout = torch.tensor([3, 7]), {"prefix": 7, "frame_size": 4, "window": 2}
    q, q_prefix, k, v = tensors
    options = {"q_prefix_BSNE": q_prefix, "prefix_lengths_B": lengths, **layout, "backend": "reference"}
    out, lse = attention(q, k, v, **options, return_lse=True)
    exact_out, exact = attention(q.double(), k.double(), v.double(), **options | {"q_prefix_BSNE": q_prefix.double()},
                                 return_lse=True)  # fmt: skip
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(lse.double(), exact, rtol=1e-6, atol=1e-3)  # of scores of thousands
    torch.testing.assert_close(out.double(), exact_out, rtol=error, atol=error)


@examples(100)
@given(
    st.integers(1, 90), st.integers(0, 5), st.integers(1, 9), st.sampled_from([None, 1, 2, 3]),
    st.sampled_from(["token", "frame", "full"]),
)  # fmt: skip
def test_rows_go_with_few_keys_more_than_they_see(oracle, video, prefix, frame_size, window, mask):
    window = None if mask == "full" else window
    layout = {"prefix": prefix, "frame_size": frame_size, "window": window, "mask": mask}
    parts = list(attention_reference._blocks(prefix + video, *layout.values()))
    assert [row for rows, _ in parts for row in rows] == list(range(prefix + video))
    for rows, keys in parts:
        assert len(rows) <= max(attention_reference.ROWS, prefix)
        seen = {key for row in rows for key in oracle.visible_keys(row, prefix, video=video, **layout) if key >= prefix}
        assert set(keys) >= seen
        assert len(keys) - len(seen) <= frame_size - 1 if mask == "frame" else set(keys) == seen


def test_a_prefix_of_length_zero_gives_zeros_and_finite_gradients():
    tensors = [torch.randn(1, 6, heads, 16, requires_grad=True) for heads in (2, 2, 1, 1)]
    out = call(tensors, torch.tensor([0]), {"prefix": 4, "frame_size": 2, "window": 1})
    assert out[:, :4].eq(0).all() and out[:, 4:].ne(0).any()
    out.sum().backward()
    assert all(x.grad.isfinite().all() for x in tensors)


def test_int32_lengths_and_strided_inputs_give_the_same(oracle):
    heads_first = [torch.randn(2, heads, 11, 8).transpose(1, 2) for heads in (4, 4, 2, 2)]
    lengths, layout = torch.tensor([1, 3]), {"prefix": 3, "frame_size": 2, "window": 2}
    plain = call([x.contiguous() for x in heads_first], lengths, layout)
    torch.testing.assert_close(call(heads_first, lengths.int(), layout), plain)


@examples(20)
@given(case=cases())
def test_log_sum_exp_is_that_of_the_visible_scores_and_differentiable(oracle, case):
    (q, q_prefix, k, v), lengths, layout = case
    B, S, N, E = q.shape
    _, lse = attention(
        q, k, v, q_prefix_BSNE=q_prefix, prefix_lengths_B=lengths, **layout, return_lse=True, backend="reference"
    )
    assert lse.shape == (B, N, S)
    for b in range(B):
        for row in range(S):
            seen = oracle.visible_keys(row, int(lengths[b]), video=S - layout["prefix"], **layout)
            for head in range(N):
                keys = k[b, :, head // (N // k.shape[2])]
                scores = [(q_prefix if j < layout["prefix"] else q)[b, row, head] @ keys[j] * E**-0.5 for j in seen]
                expected = torch.stack(scores).logsumexp(0) if seen else torch.tensor(-torch.inf).double()
                torch.testing.assert_close(lse[b, head, row], expected)
    if S:
        lse.masked_fill(lse.isinf(), 0.0).sum().backward()
        assert all(x.grad is None or x.grad.isfinite().all() for x in (q, q_prefix, k, v))


def test_plain_causal_and_full_attention_are_torchs_own():
    q, k, v = torch.randn(3, 2, 11, 4, 8, dtype=torch.float64)
    for mask, causal in (("token", True), ("full", False)):
        expected = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=causal)
        torch.testing.assert_close(attention(q, k, v, mask=mask), expected.transpose(1, 2))


def test_without_second_queries_and_lengths_the_first_are_used_and_all_slots_are_valid():
    q, k, v = torch.randn(3, 2, 11, 4, 8, dtype=torch.float64)
    layout = {"prefix": 5, "frame_size": 2, "window": 2}
    expected = attention(q, k, v, q_prefix_BSNE=q, prefix_lengths_B=torch.tensor([5, 5]), **layout)
    torch.testing.assert_close(attention(q, k, v, **layout), expected)


@pytest.mark.parametrize("mask", ["token", "frame"])
def test_torch_compile_takes_the_reference_whole(mask):
    q, k, v = torch.randn(3, 1, 11, 2, 8)
    layout = {"prefix": 3, "frame_size": 2, "window": 2, "mask": mask}
    compiled = torch.compile(lambda q, k, v: attention(q, k, v, **layout), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, v), attention(q, k, v, **layout))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q_prefix_BSNE": torch.zeros(1, 6, 2, 8)}, "q_prefix_BSNE: must have the shape of q_BSNE"),
        ({"k_BSKE": torch.zeros(1, 6, 3, 8)}, r"k_BSKE: must have a number of heads that divides 4 \(N\), got 3"),
        ({"k_BSKE": torch.zeros(1, 5, 2, 8)}, "k_BSKE: must have the shape"),
        ({"v_BSKE": torch.zeros(1, 6, 1, 8)}, "v_BSKE: must have the shape of k_BSKE"),
        ({"v_BSKE": torch.zeros(1, 6, 2, 8).bfloat16()}, "v_BSKE: must be torch.float32"),
        ({"prefix_lengths_B": torch.zeros(2, dtype=torch.int64)}, "prefix_lengths_B: must have shape"),
        ({"prefix_lengths_B": torch.zeros(1)}, "prefix_lengths_B: must be int64 or int32"),
        ({"prefix": 7}, r"prefix: must be 0 .. 6 \(S\), got 7"),
        ({"frame_size": 0}, "frame_size: must be at least 1, got 0"),
        ({"window": 0}, "window: must be at least 1, or None, got 0"),
        ({"mask": "causal"}, "mask: must be 'token', 'frame' or 'full', got 'causal'"),
        ({"mask": "full"}, "window: must be None under the full mask, got 1"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    q, k = torch.zeros(1, 6, 4, 8), torch.zeros(1, 6, 2, 8)
    arguments = {
        "q_BSNE": q, "q_prefix_BSNE": q, "k_BSKE": k, "v_BSKE": k,
        "prefix_lengths_B": torch.zeros(1, dtype=torch.int64), "prefix": 2, "frame_size": 2, "window": 1,
    }  # fmt: skip
    with pytest.raises(ReelmError, match=f"^{message}"):
        attention(**(arguments | changes))
