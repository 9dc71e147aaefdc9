"""`attention` in Triton's interpreter, forward and backward (conftest.py tells how).

The exact values are the reference's in float64, which test_attention.py holds against a loop over the definition.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.kernels import attention_triton
from reelm.kernels.attention import attention


def draw(dtype, B, S, N, K, E, seed=0):
    random, device = torch.Generator().manual_seed(seed), torch.empty(0).device
    return [torch.randn(B, S, heads, E, generator=random, device="cpu").to(device, dtype) for heads in (N, K, K, N)]


def run(tensors, lengths, layout, backend):
    """Output, log-sum-exp (0 for rows that see nothing) and the gradients of a random function of both."""
    tensors = [x.detach().requires_grad_() for x in tensors]
    q, k, v, q_prefix = tensors
    out, lse = attention(
        q, k, v, q_prefix_BSNE=q_prefix, prefix_lengths_B=lengths, **layout, return_lse=True, backend=backend
    )
    lse = lse.masked_fill(lse.isinf(), 0.0)
    random = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=random, dtype=torch.float64, device="cpu").to(x) for x in (out, lse)]
    loss = sum((x * weight).sum() for x, weight in zip((out, lse), weights, strict=True))
    return [out, lse, *torch.autograd.grad(loss, tensors, materialize_grads=True)]


def check(check_error, tensors, lengths, layout):
    exact = run([x.double() for x in tensors], lengths, layout, "reference")
    plain = run(tensors, lengths, layout, "reference")
    found = run(tensors, lengths, layout, "triton")
    # Norms of what is summed: of d_out, and of what makes one row's score.
    out_norm, score_norm = found[0].numel() ** 0.5, found[0].shape[-1] ** 0.5
    for name, a, b, c in zip(("out", "lse", "dq", "dk", "dv", "dq_prefix"), found, plain, exact, strict=True):
        assert a.shape == c.shape, name
        terms = {"out": 0.0, "lse": score_norm}.get(name, out_norm)
        check_error(*(x.detach()[..., None] if name == "lse" else x.detach() for x in (a, b, c)), terms)
    assert found[0][exact[0].eq(0).all(-1)].eq(0).all()


ATTENTION = [
    # dtype, N, K, E, prefix, video tokens, frame_size, window, mask, lengths
    pytest.param(torch.float32, 4, 2, 16, 5, 90, 7, 3, "token", (0, 3), id="odd sizes, empty prefix"),
    pytest.param(torch.float32, 3, 1, 48, 70, 45, 16, 2, "token", (66, 70), id="prefix over one block, padded head"),
    pytest.param(torch.float32, 2, 2, 16, 0, 1, 1, 1, "token", (0, 0), id="one token"),
    pytest.param(torch.float32, 2, 1, 16, 1, 0, 1, 1, "token", (1, 0), id="one prefix slot"),
    pytest.param(torch.float32, 1, 1, 16, 0, 0, 1, 1, "token", (0,), id="nothing"),
    pytest.param(torch.float32, 1, 1, 16, 0, 200, 4, 1, "token", (0,), id="window far shorter than a block"),
    pytest.param(torch.float32, 1, 1, 16, 0, 130, 48, 1, "token", (0,), id="blocks that start inside a latent frame"),
    pytest.param(torch.float32, 1, 1, 16, 0, 110, 1, None, "token", (0,), id="plain causal"),
    pytest.param(torch.float32, 2, 1, 16, 3, 77, 9, 2, "frame", (2,), id="whole frames, cut off at the end"),
    pytest.param(torch.float32, 2, 1, 16, 40, 66, 5, None, "full", (33,), id="all see all but the padding"),
    pytest.param(torch.bfloat16, 6, 2, 32, 5, 150, 16, 7, "token", (0, 5), id="bf16"),
    pytest.param(torch.bfloat16, 2, 1, 128, 9, 20, 4, 2, "frame", (9,), id="bf16, widest head"),
    pytest.param(torch.float16, 2, 2, 80, 3, 30, 4, 2, "token", (2,), id="fp16"),
]


@pytest.mark.parametrize(
    ("dtype", "N", "K", "E", "prefix", "video", "frame_size", "window", "mask", "lengths"), ATTENTION
)
def test_attention(check_error, dtype, N, K, E, prefix, video, frame_size, window, mask, lengths):
    layout = {"prefix": prefix, "frame_size": frame_size, "window": window, "mask": mask}
    check(check_error, draw(dtype, len(lengths), prefix + video, N, K, E), torch.tensor(lengths), layout)


@st.composite
def cases(draw):
    """Sizes, the lengths of the prefixes, and the layout."""
    K, group, prefix = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(0, 70))
    sizes = {"N": K * group, "K": K, "E": 16 * draw(st.integers(1, 8)), "seed": draw(st.integers(0, 1000))}
    mask = draw(st.sampled_from(["token", "frame", "full"]))
    layout = {
        "prefix": prefix, "frame_size": draw(st.integers(1, 20)), "mask": mask,
        "window": None if mask == "full" else draw(st.none() | st.integers(1, 5)),
    }  # fmt: skip
    lengths = draw(st.lists(st.integers(0, prefix), min_size=1, max_size=2))
    return draw(st.sampled_from([torch.float32, torch.bfloat16])), draw(st.integers(0, 150)), sizes, lengths, layout


def test_sizes_and_layouts_that_hypothesis_draws(examples, check_error):
    @examples
    @given(cases())
    def is_right(case):
        dtype, video, sizes, lengths, layout = case
        tensors = draw(dtype, len(lengths), layout["prefix"] + video, **sizes)
        check(check_error, tensors, torch.tensor(lengths), layout)

    is_right()


def test_attention_reads_no_padded_prefix_slot_and_takes_any_strides():
    q, k, v, q_prefix = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in draw(torch.float32, 1, 20, 2, 1, 16))
    lengths = torch.tensor([3], dtype=torch.int32)
    layout = {"prefix": 6, "frame_size": 4, "window": 2, "q_prefix_BSNE": q_prefix, "prefix_lengths_B": lengths}
    expected = attention(q, k, v, **layout, backend="reference")
    k[:, 3:6], v[:, 3:6] = float("nan"), float("nan")
    torch.testing.assert_close(attention(q, k, v, **layout, backend="triton"), expected)


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")  # of the rows whose keys are NaN
@pytest.mark.parametrize("mask", ["token", "frame"])
def test_attention_skips_blocks_outside_the_mask(mask):
    # Keys before the window are never loaded: were they only masked, 0 * NaN would show.
    q, k, v, _ = draw(torch.float32, 1, 256, 1, 1, 16)
    layout = {"frame_size": 64, "window": 1, "mask": mask}
    expected = attention(q, k, v, **layout, backend="reference")
    k[:, :192], v[:, :192] = float("nan"), float("nan")
    out = attention(q, k, v, **layout, backend="triton")
    torch.testing.assert_close(out[:, 192:], expected[:, 192:])


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_attention_backward_skips_rows_outside_the_mask():
    q, k, v, _ = (x.requires_grad_() for x in draw(torch.float32, 1, 256, 1, 1, 16))
    out = attention(q, k, v, frame_size=64, window=1, backend="triton")
    d_out = torch.ones_like(out)
    d_out[:, 64:] = float("nan")
    dk, dv = torch.autograd.grad(out, (k, v), d_out)
    assert dk[:, :64].isfinite().all() and dv[:, :64].isfinite().all() and dv[:, 64:].isnan().any()


def test_attention_without_second_queries_uses_the_first():
    q, k, v, _ = draw(torch.float32, 1, 20, 2, 1, 16)
    layout = {"prefix": 6, "frame_size": 4, "window": 2}
    expected = attention(q, k, v, q_prefix_BSNE=q, prefix_lengths_B=torch.tensor([6]), **layout, backend="triton")
    assert torch.equal(attention(q, k, v, **layout, backend="triton"), expected)


def test_a_row_has_the_same_bits_alone_and_in_a_batch():
    tensors, lengths = draw(torch.float32, 2, 40, 2, 1, 16), torch.tensor([5, 2])
    layout = {"prefix": 5, "frame_size": 4, "window": 3}
    both = run(tensors, lengths, layout, "triton")
    alone = attention(
        *(x[1:] for x in tensors[:3]), q_prefix_BSNE=tensors[3][1:], prefix_lengths_B=lengths[1:], **layout,
        backend="triton",
    )  # fmt: skip
    assert torch.equal(alone, both[0][1:])


# torch itself looks at the gradients of tensors in the middle of a graph (2.14).
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.slow
def test_opcheck():
    q, k, v, q_prefix = (x.requires_grad_() for x in draw(torch.float32, 1, 9, 2, 1, 16))
    arguments = (q, k, v, q_prefix, torch.tensor([3]), 4, 2, 2, "token")
    torch.library.opcheck(attention_triton._attention, arguments)


def test_torch_compile_takes_it_whole_with_its_gradients():
    def step(q, k, v, q_prefix, lengths):
        options = {"prefix": 4, "frame_size": 2, "window": 2, "q_prefix_BSNE": q_prefix, "prefix_lengths_B": lengths}
        return attention(2 * q, k, v, **options, backend="triton").square().sum()

    tensors, lengths = [x.requires_grad_() for x in draw(torch.float32, 1, 9, 2, 1, 16)], torch.tensor([3])
    expected = torch.autograd.grad(step(*tensors, lengths), tensors)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for a, b in zip(torch.autograd.grad(compiled(*tensors, lengths), tensors), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_the_reference_is_not_run(monkeypatch):
    ran = []
    monkeypatch.setattr(attention_triton, "attention_triton", lambda *args, **options: ran.append(args) or (None, None))
    q = torch.zeros(1, 1, 1, 16)
    attention(q, q, q, backend="triton")
    assert len(ran) == 1
