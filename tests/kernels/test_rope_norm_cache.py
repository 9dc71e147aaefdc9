"""`rope_norm_cache` on the reference, against complex numbers in float64, a head at a time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.kernels.decode_attention import decode_attention
from reelm.kernels.rope_norm_cache import rope_norm_cache
from reelm.tests.examples import examples


def normalised(x_E, weight_E, epsilon):
    if weight_E is None:
        return x_E.double()
    x_E, weight_E = x_E.double(), weight_E.double()
    return x_E / (x_E @ x_E / len(x_E) + epsilon).sqrt() * weight_E


def turned(x_E, angles_F):
    pairs_F = torch.complex(*x_E.chunk(2)) * torch.polar(torch.ones_like(angles_F), angles_F)
    return torch.cat((pairs_F.real, pairs_F.imag))


def oracle(qkv_BLJE, q_norm_E, k_norm_E, angles_BLF, K, epsilon):
    """(q, q_prefix, k, v) in float64."""
    B, L, H, E = qkv_BLJE.shape
    N = H - 2 * K
    q, q_prefix, k = (
        torch.zeros(B, L, N, E).double(),
        torch.zeros(B, L, N, E).double(),
        torch.zeros(B, L, K, E).double(),
    )
    for b in range(B):
        for token in range(L):
            for head in range(N):
                q_prefix[b, token, head] = normalised(qkv_BLJE[b, token, head], q_norm_E, epsilon)
                q[b, token, head] = turned(q_prefix[b, token, head], angles_BLF[b % len(angles_BLF), token])
            for head in range(K):
                plain_E = normalised(qkv_BLJE[b, token, N + head], k_norm_E, epsilon)
                k[b, token, head] = turned(plain_E, angles_BLF[b % len(angles_BLF), token])
    return q, q_prefix, k, qkv_BLJE[:, :, N + K :].double()


def draw(dtype, B, L, N, K, E, C, seed=0):
    """Arguments with caches of NaN, and the angles."""
    random = torch.Generator().manual_seed(seed)
    tensors = [
        torch.randn(shape, dtype=torch.float64, generator=random) for shape in ((B, L, N + 2 * K, E), (E,), (E,))
    ]
    angles_BLF = torch.rand(B, L, E // 2, dtype=torch.float64, generator=random) * 100
    slots_BL = torch.stack([torch.randperm(C, generator=random)[:L] for _ in range(B)])
    caches = torch.full((2, B, K, C, E), float("nan"), dtype=dtype)
    rotation = tuple(
        part[:, :, None].to(torch.promote_types(dtype, torch.float32)) for part in (angles_BLF.cos(), angles_BLF.sin())
    )
    return [*(x.to(dtype) for x in tensors), slots_BL, *caches], rotation, angles_BLF


def gathered(cache_BKC, slots_BL):
    """What lies in the slots, (B, L, K, …)."""
    return torch.stack([cache[:, slots].transpose(0, 1) for cache, slots in zip(cache_BKC, slots_BL, strict=True)])


@examples(60)
@given(data=st.data())
def test_what_is_returned_and_written_equals_the_oracle_and_no_other_slot_is_touched(data):
    draw_one = data.draw
    B, L, N, K = (draw_one(st.integers(least, 3)) for least in (1, 0, 1, 1))
    E, C = 2 * draw_one(st.integers(1, 5)), L + draw_one(st.integers(0, 3))
    epsilon = draw_one(st.sampled_from([1e-6, 0.5]))
    arguments, rotation, angles_BLF = draw(torch.float64, B, L, N, K, E, C, draw_one(st.integers(0, 1000)))
    if draw_one(st.booleans()):
        # One rotation for all rows.
        rotation, angles_BLF = tuple(part[:1] for part in rotation), angles_BLF[:1]
    if draw_one(st.booleans()):
        arguments[1] = arguments[2] = None
    q, q_prefix = rope_norm_cache(*arguments, rotation=rotation, epsilon=epsilon, backend="reference")
    qkv, q_norm, k_norm, slots_BL, k_cache, v_cache = arguments
    expected = oracle(qkv, q_norm, k_norm, angles_BLF, K, epsilon)
    torch.testing.assert_close((q, q_prefix), expected[:2])
    if L:
        torch.testing.assert_close(gathered(k_cache, slots_BL), expected[2])
        assert torch.equal(gathered(v_cache, slots_BL), expected[3])
    for cache in (k_cache, v_cache):
        assert cache.isfinite().sum() == B * L * K * E


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_result_is_rounded_once(dtype):
    arguments, rotation, angles_BLF = draw(dtype, 2, 5, 4, 2, 64, 9)
    q, q_prefix = rope_norm_cache(*arguments, rotation=rotation)
    expected = oracle(*arguments[:3], angles_BLF, 2, 1e-6)
    for out, exact in zip((q, q_prefix, gathered(arguments[4], arguments[3])), expected[:3], strict=True):
        # Half a step of the dtype, and what float32 arithmetic leaves of the pair's length.
        pair = torch.cat([torch.hypot(*exact.chunk(2, -1))] * 2, -1)
        assert out.dtype == dtype
        allowed = torch.finfo(dtype).eps / 2 * exact.abs() * 1.01 + 2e-6 * pair + torch.finfo(dtype).tiny
        assert ((out.double() - exact).abs() <= allowed).all()
    assert torch.equal(gathered(arguments[5], arguments[3]), arguments[0][:, :, 6:])


def quantized(arguments):
    """The arguments with int8 caches of 99 and scales of NaN."""
    caches = [torch.full_like(cache, 99, dtype=torch.int8) for cache in arguments[4:]]
    scales = {f"{name}_scales_BKC": torch.full(caches[0].shape[:3], float("nan")) for name in "kv"}
    return [*arguments[:4], *caches], scales


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_int8_cache_is_off_by_half_a_step_of_its_scale_at_most(dtype):
    arguments, rotation, angles_BLF = draw(dtype, 2, 5, 3, 2, 16, 9)
    q, q_prefix = rope_norm_cache(*arguments, rotation=rotation)
    arguments, scales = quantized(arguments)
    out = rope_norm_cache(*arguments, rotation=rotation, **scales)
    assert torch.equal(out[0], q) and torch.equal(out[1], q_prefix)
    exact = oracle(*arguments[:3], angles_BLF, 2, 1e-6)[2:]
    for cache, scale, x in zip(arguments[4:], scales.values(), exact, strict=True):
        scale_BLK = gathered(scale, arguments[3])
        torch.testing.assert_close(scale_BLK, (x.abs().amax(-1) / 127).float())
        written = gathered(cache, arguments[3])
        assert written.abs().amax(-1).eq(127).all()
        error = (written * scale_BLK[..., None].double() - x).abs()
        assert (error <= 0.5001 * scale_BLK[..., None]).all() and error.max() > 0
        assert scale.isfinite().sum() == scale_BLK.numel() and cache.ne(99).sum() <= written.numel()


def test_decode_attention_reads_what_is_written_to_an_int8_cache():
    L, layout = 12, {"prefix": 2, "frame_size": 4, "window": 2}
    arguments, rotation, _ = draw(torch.float32, 2, L, 4, 2, 64, 2 + L)
    # The first two tokens of each row are its prefix, the others the newest of the ring.
    arguments[3] = torch.arange(L).expand(2, -1)
    positions, lengths, outs = torch.full((2,), 9), torch.tensor([2, 1]), []
    for inputs, scales in ((arguments, {}), quantized(arguments)):
        queries = rope_norm_cache(*inputs, rotation=rotation, **scales)
        last = [q[:, -1:] for q in queries]
        outs.append(decode_attention(*last, *(x[:, :, :10] for x in inputs[4:]), positions, lengths, **layout,
                                     **{name: x[:, :, :10] for name, x in scales.items()}))  # fmt: skip
    error = (outs[1] - outs[0]).norm() / outs[0].norm()
    assert 1e-4 < error < 2e-2


def values_through_int8(values_E):
    """(int8, scale) of one head of values."""
    E = len(values_E)
    arguments, rotation, _ = draw(torch.float32, 1, 1, 1, 1, E, 1)
    arguments[0][0, 0, 2] = values_E
    arguments, scales = quantized(arguments)
    rope_norm_cache(*arguments, rotation=rotation, **scales)
    return arguments[5][0, 0, 0].tolist(), scales["v_scales_BKC"].item()


def test_int8_rounds_ties_to_even_is_symmetric_and_holds_zeros():
    values = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -126.5])
    assert values_through_int8(values) == ([127, 0, 2, 2, 0, -2, -2, -126], 1.0)
    assert values_through_int8(-values) == ([-127, 0, -2, -2, 0, 2, 2, 126], 1.0)
    assert values_through_int8(torch.zeros(4)) == ([0, 0, 0, 0], 1.0)


def test_values_of_a_few_bits_do_not_wrap_in_int8():
    # The scale of these is rounded to one step of float32's smallest, so that the quotient is 190.
    tiny = 2.0**-149
    assert values_through_int8(torch.tensor([190 * tiny, -190 * tiny])) == ([127, -127], tiny)


def test_strided_inputs_and_caches_give_the_same():
    arguments, rotation, _ = draw(torch.float32, 2, 3, 2, 2, 8, 5)
    qkv = arguments[0].transpose(1, 2).contiguous().transpose(1, 2)
    apart = [cache.transpose(1, 2) for cache in torch.zeros(2, 2, 5, 2, 8)]
    out = rope_norm_cache(qkv, *arguments[1:4], *apart, rotation=rotation)
    torch.testing.assert_close(out, rope_norm_cache(*arguments, rotation=rotation))
    for cache, expected in zip(apart, arguments[4:], strict=True):
        assert torch.equal(gathered(cache, arguments[3]), gathered(expected, arguments[3]))


ZEROS = torch.zeros(2, 2, 5, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qkv_BLJE": torch.zeros(2, 3, 40)}, "qkv_BLJE: must have 4 dimensions"),
        ({"qkv_BLJE": torch.zeros(2, 3, 7, 9)}, "qkv_BLJE: must have an even head_dim, got 9"),
        ({"qkv_BLJE": torch.zeros(2, 3, 7, 8, dtype=torch.int8)}, "qkv_BLJE: must be of a floating-point dtype"),
        ({"qkv_BLJE": torch.zeros(2, 3, 4, 8)}, r"k_cache_BKCE: must have 1 .. 1 heads, J being 4, got 2"),
        ({"k_cache_BKCE": torch.zeros(2, 2, 40)}, "k_cache_BKCE: must have 4 dimensions"),
        ({"k_cache_BKCE": torch.zeros(1, 2, 5, 8)}, r"k_cache_BKCE: must have the shape \(2, 2, 5, 8\)"),
        ({"k_cache_BKCE": ZEROS.half()}, "k_cache_BKCE: must be torch.float32 or torch.int8"),
        ({"k_cache_BKCE": torch.zeros(2, 2, 8, 5).mT}, "k_cache_BKCE: must be contiguous along its last axis"),
        ({"v_cache_BKCE": torch.zeros(2, 2, 6, 8)}, r"v_cache_BKCE: must have the shape \(2, 2, 5, 8\)"),
        ({"v_cache_BKCE": ZEROS.char()}, "v_cache_BKCE: must be torch.float32, got torch.int8"),
        ({"slots_BL": torch.zeros(2, 2, dtype=torch.int64)}, r"slots_BL: must have the shape \(2, 3\)"),
        ({"slots_BL": torch.zeros(2, 3, dtype=torch.int32)}, "slots_BL: must be torch.int64"),
        ({"q_norm_E": torch.zeros(4)}, r"q_norm_E: must have the shape \(8,\)"),
        ({"k_norm_E": torch.zeros(8, dtype=torch.int64)}, "k_norm_E: must be torch.float64 or torch.float32"),
        ({"k_norm_E": None}, "q_norm_E, k_norm_E: must both be given or both be None"),
        ({"k_norm_E": torch.zeros(8, device="meta")}, "k_norm_E: must be on cpu as qkv_BLJE is"),
        ({"rotation": (torch.zeros(2, 3, 1, 4), torch.zeros(2, 3, 4))}, "rotation: must have the shape"),
        ({"epsilon": -1.0}, "epsilon: must be at least 0"),
        ({"k_scales_BKC": ZEROS[..., 0]}, "k_scales_BKC: must be None unless the caches are int8"),
        ({"k_cache_BKCE": ZEROS.char(), "v_cache_BKCE": ZEROS.char()}, "k_scales_BKC: must be given for int8 caches"),
        ({"k_cache_BKCE": ZEROS.char(), "v_cache_BKCE": ZEROS.char(), "k_scales_BKC": ZEROS[..., 0]},
         "v_scales_BKC: must be given for int8 caches"),
        ({"k_cache_BKCE": ZEROS.char(), "v_cache_BKCE": ZEROS.char(), "k_scales_BKC": ZEROS},
         r"k_scales_BKC: must have the shape \(2, 2, 5\)"),
        ({"k_cache_BKCE": ZEROS.char(), "v_cache_BKCE": ZEROS.char(), "k_scales_BKC": ZEROS[..., 0].half()},
         "k_scales_BKC: must be torch.float32"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_by_name(changes, message):
    part = torch.zeros(2, 3, 1, 4)
    arguments = {
        "qkv_BLJE": torch.zeros(2, 3, 7, 8), "q_norm_E": torch.ones(8), "k_norm_E": torch.ones(8),
        "slots_BL": torch.arange(3).expand(2, -1), "k_cache_BKCE": ZEROS, "v_cache_BKCE": ZEROS,
        "rotation": (part, part),
    }  # fmt: skip
    with pytest.raises(ReelmError, match=f"^{message}"):
        rope_norm_cache(**(arguments | changes))
