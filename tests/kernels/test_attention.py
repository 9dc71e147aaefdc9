"""`attention` on the reference, against a loop over rows and heads in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.kernels.attention import attention


@st.composite
def cases(draw):
    """(q, q_prefix, k, v, lengths) and the layout; float64, with gradients."""
    B, K, group, E = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 9))
    prefix, video = draw(st.integers(0, 5)), draw(st.integers(0, 13))
    lengths = torch.tensor([draw(st.integers(0, prefix)) for _ in range(B)])
    layout = {"prefix": prefix, "frame_size": draw(st.integers(1, 4)), "window": draw(st.integers(1, 3))}
    random = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    shapes = [(B, prefix + video, heads, E) for heads in (K * group, K * group, K, K)]
    tensors = [torch.randn(shape, dtype=torch.float64, generator=random, requires_grad=True) for shape in shapes]
    return tensors, lengths, layout


@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_values_and_gradients_equal_the_oracle(oracle, case):
    tensors, lengths, layout = case
    expected = oracle.attention(*tensors, lengths, **layout)
    out = attention(*tensors, lengths, **layout, backend="reference")
    torch.testing.assert_close(out, expected)
    if out.numel() and expected.requires_grad:
        weight = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(0))
        wanted = torch.autograd.grad((expected * weight).sum(), tensors, materialize_grads=True)
        got = torch.autograd.grad((out * weight).sum(), tensors, materialize_grads=True)
        torch.testing.assert_close(got, wanted)


@settings(max_examples=20, deadline=None)
@given(case=cases(), choice=st.integers(0, 1000))
def test_a_row_has_gradients_from_the_keys_that_it_sees_alone(oracle, case, choice):
    tensors, lengths, layout = case
    B, S = tensors[0].shape[:2]
    if S == 0:
        return
    row = choice % S
    out = attention(*tensors, lengths, **layout)
    grads = torch.autograd.grad(out[:, row].square().sum(), tensors, materialize_grads=True)
    for b in range(B):
        touched = [(grad[b].abs().sum((1, 2)) > 0).nonzero().flatten().tolist() for grad in grads]
        seen = oracle.visible_keys(row, int(lengths[b]), **layout)
        assert set(touched[0]) | set(touched[1]) <= {row}
        assert set(touched[2]) <= set(seen)
        assert touched[3] == seen


def test_float32_is_as_good_as_plain_torch(oracle):
    torch.manual_seed(0)
    tensors = [torch.randn(2, 23, heads, 32) for heads in (4, 4, 2, 2)]
    lengths, layout = torch.tensor([3, 7]), {"prefix": 7, "frame_size": 4, "window": 2}
    exact = oracle.attention(*(x.double() for x in tensors), lengths, **layout)
    plain = oracle.attention(*tensors, lengths, **layout)
    out = attention(*tensors, lengths, **layout)
    assert out.dtype == torch.float32
    assert (out - exact).norm() <= 2 * (plain - exact).norm()


def test_a_prefix_of_length_zero_gives_zeros_and_finite_gradients():
    tensors = [torch.randn(1, 6, heads, 16, requires_grad=True) for heads in (2, 2, 1, 1)]
    out = attention(*tensors, torch.tensor([0]), prefix=4, frame_size=2, window=1)
    assert out[:, :4].eq(0).all() and out[:, 4:].ne(0).any()
    out.sum().backward()
    assert all(x.grad.isfinite().all() for x in tensors)


def test_int32_lengths_and_strided_inputs_give_the_same(oracle):
    heads_first = [torch.randn(2, heads, 11, 8).transpose(1, 2) for heads in (4, 4, 2, 2)]
    lengths, layout = torch.tensor([1, 3]), {"prefix": 3, "frame_size": 2, "window": 2}
    plain = attention(*(x.contiguous() for x in heads_first), lengths, **layout)
    torch.testing.assert_close(attention(*heads_first, lengths.int(), **layout), plain)


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
        ({"window": 0}, "window: must be at least 1, got 0"),
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
