"""`rope_norm_cache` in Triton's interpreter (conftest.py tells how).

Exact is the reference in float64, which test_rope_norm_cache.py holds against an oracle; plain is it at the dtype.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.kernels import rope_norm_cache_triton
from reelm.kernels.rope_norm_cache import rope_norm_cache


def draw(dtype, B, L, N, K, E, C, broadcast=False, seed=0):
    """Arguments with caches of NaN."""
    random, device = torch.Generator().manual_seed(seed), torch.empty(0).device
    with torch.device("cpu"):
        tensors = [torch.randn(shape, generator=random).to(dtype) for shape in ((B, L, N + 2 * K, E), (E,), (E,))]
        slots_BL = torch.stack([torch.randperm(C, generator=random)[:L] for _ in range(B)])
        angles = torch.rand(1 if broadcast else B, L, 1, E // 2, generator=random) * 100
        caches = torch.full((2, B, K, C, E), float("nan"), dtype=dtype)
    return [x.to(device) for x in (*tensors, slots_BL, *caches)], (angles.cos().to(device), angles.sin().to(device))


def run(arguments, rotation, backend, dtype, **options):
    """Everything that is returned or written: (q, q_prefix, k_cache, v_cache), at `dtype`."""
    tensors = [x if x is None else x.clone() if x.dtype == torch.int64 else x.to(dtype, copy=True) for x in arguments]
    return *rope_norm_cache(*tensors, rotation=rotation, backend=backend, **options), *tensors[4:]


CASES = [
    # dtype, B, L, N, K, E, C, one rotation for all rows
    pytest.param(torch.float32, 2, 3, 6, 2, 48, 7, False, id="odd half of a head"),
    pytest.param(torch.float32, 1, 1, 1, 1, 2, 1, False, id="one pair, one slot"),
    pytest.param(torch.float32, 3, 2, 2, 1, 16, 300, True, id="one rotation for all rows"),
    pytest.param(torch.bfloat16, 2, 2, 4, 2, 32, 9, False, id="bf16"),
    pytest.param(torch.float16, 1, 3, 2, 2, 128, 5, False, id="fp16, widest head"),
]


def check(check_error, arguments, rotation):
    dtype = arguments[0].dtype
    exact, plain = (run(arguments, rotation, "reference", kind) for kind in (torch.float64, dtype))
    outs = run(arguments, rotation, "triton", dtype)
    for out, plain_out, exact_out in zip(outs, plain, exact, strict=True):
        written = exact_out.isfinite()
        assert torch.equal(out.isfinite(), written), "another slot was touched, or one was not written"
        check_error(*(x[written].view(-1, x.shape[-1]) for x in (out, plain_out, exact_out)))
        # The same rounding points as the reference: one step of the dtype apart at most.
        step = torch.finfo(dtype).eps * exact_out[written].abs() + 1e-5
        assert ((out[written].double() - plain_out[written].double()).abs() <= step).all()
    assert torch.equal(outs[3].nan_to_num(), plain[3].nan_to_num())


@pytest.mark.parametrize(("dtype", "B", "L", "N", "K", "E", "C", "broadcast"), CASES)
def test_rope_norm_cache(check_error, dtype, B, L, N, K, E, C, broadcast):
    check(check_error, *draw(dtype, B, L, N, K, E, C, broadcast))


def test_without_norms(check_error):
    arguments, rotation = draw(torch.float32, 2, 3, 4, 2, 32, 9)
    normalised = run(arguments, rotation, "triton", torch.float32)
    arguments[1] = arguments[2] = None
    check(check_error, arguments, rotation)
    assert not torch.equal(run(arguments, rotation, "triton", torch.float32)[0], normalised[0])


def run_int8(arguments, rotation, backend, device):
    """(q, q_prefix, k_cache, v_cache, k_scales, v_scales), the caches of int8 and of 99 before."""
    tensors, rotation = [x.to(device) for x in arguments[:4]], tuple(part.to(device) for part in rotation)
    caches = [torch.full(cache.shape, 99, dtype=torch.int8, device=device) for cache in arguments[4:]]
    scales = torch.full((2, *caches[0].shape[:3]), float("nan"), device=device)
    options = {"k_scales_BKC": scales[0], "v_scales_BKC": scales[1]}
    out = rope_norm_cache(*tensors, *caches, rotation=rotation, backend=backend, **options)
    return [x.cpu() for x in (*out, *caches, *scales)]


def check_int8(arguments, rotation):
    # On CUDA torch divides by a number as it multiplies by its inverse, which is not what the kernel does.
    expected = run_int8(arguments, rotation, "reference", "cpu")
    outs = run_int8(arguments, rotation, "triton", arguments[0].device)
    for name, out, plain in zip(("q", "q_prefix", "k", "v", "k_scales", "v_scales"), outs, expected, strict=True):
        assert out.dtype == plain.dtype
        if name.startswith("v"):
            assert torch.equal(out.nan_to_num(), plain.nan_to_num()), name
        elif name == "k":
            # The norm's last bit may tip a value that lies between two integers.
            assert (out.int() - plain.int()).abs().max() <= 1 and (out != plain).float().mean() < 0.05 + 2 / out.numel()
        else:
            torch.testing.assert_close(out, plain, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_caches(dtype):
    arguments, rotation = draw(dtype, 2, 2, 3, 2, 24, 5)
    arguments[0][0, 0, 6] = 0.0
    check_int8(arguments, rotation)


@st.composite
def cases(draw):
    """The arguments of `draw`."""
    sizes = {name: draw(st.integers(1, 4)) for name in "BLNK"}
    sizes |= {"E": 2 * draw(st.integers(1, 128)), "C": sizes["L"] + draw(st.integers(0, 20))}
    options = {"broadcast": draw(st.booleans()), "seed": draw(st.integers(0, 1000))}
    return sizes | options | {"dtype": draw(st.sampled_from([torch.float32, torch.bfloat16]))}


def test_sizes_that_hypothesis_draws(examples, check_error):
    @examples
    @given(cases(), st.booleans())
    def is_right(case, int8):
        if int8:
            check_int8(*draw(**case))
        else:
            check(check_error, *draw(**case))

    is_right()


def test_int8_rounds_ties_to_even_holds_zeros_and_does_not_wrap():
    values = torch.tensor([
        [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -126.5], [0.0] * 8, [190 * 2.0**-149, -190 * 2.0**-149] + [0.0] * 6
    ])  # fmt: skip
    arguments, rotation = draw(torch.float32, 1, 3, 1, 1, 8, 3)
    arguments[0][0, :, 2], arguments[3] = values, torch.arange(3)[None]
    caches, scales = torch.full((2, 1, 1, 3, 8), 99, dtype=torch.int8), torch.full((2, 1, 1, 3), float("nan"))
    options = {"k_scales_BKC": scales[0], "v_scales_BKC": scales[1]}
    rope_norm_cache(*arguments[:4], *caches, rotation=rotation, backend="triton", **options)
    expected = [[127, 0, 2, 2, 0, -2, -2, -126], [0] * 8, [127, -127] + [0] * 6]
    assert caches[1][0, 0].tolist() == expected
    assert scales[1].flatten().tolist() == [1.0, 1.0, 2.0**-149]


def test_epsilon_counts_and_strides_are_free():
    arguments, rotation = draw(torch.float32, 2, 2, 2, 1, 16, 4)
    plain = run(arguments, rotation, "triton", torch.float32)
    apart = [
        torch.stack([arguments[0]] * 2, -1)[..., 0], *arguments[1:4],
        *(cache.transpose(1, 2).contiguous().transpose(1, 2) for cache in arguments[4:]),
    ]  # fmt: skip
    for options in ({}, {"epsilon": 0.5}):
        out = (*rope_norm_cache(*apart, rotation=rotation, backend="triton", **options), *apart[4:])
        expected = run(arguments, rotation, "reference", torch.float32, **options)
        torch.testing.assert_close(out, expected, equal_nan=True)
        assert torch.equal(out[0], plain[0]) == (not options)


def test_no_tokens():
    arguments, rotation = draw(torch.float32, 2, 2, 2, 1, 16, 4)
    arguments[0], arguments[3] = arguments[0][:, :0], arguments[3][:, :0]
    q, q_prefix = rope_norm_cache(*arguments, rotation=tuple(part[:, :0] for part in rotation), backend="triton")
    assert q.shape == q_prefix.shape == (2, 0, 2, 16) and arguments[4].isnan().all()


def test_the_reference_is_not_run(monkeypatch):
    ran = []
    monkeypatch.setattr(rope_norm_cache_triton, "rope_norm_cache_triton", lambda *args, **options: ran.append(args))
    arguments, rotation = draw(torch.float32, 1, 1, 1, 1, 2, 1)
    rope_norm_cache(*arguments, rotation=rotation, backend="triton")
    assert len(ran) == 1
    run(arguments, rotation, "triton", torch.float64)
    assert len(ran) == 1, "float64 goes to the reference"
