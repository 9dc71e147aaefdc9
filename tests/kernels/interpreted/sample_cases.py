"""`sample` in Triton's interpreter (conftest.py tells how): the noise to the bit, the tokens as the reference's.

Scores are the same bits in both, so only a top-p border within rounding may tell them apart.
"""

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st

from reelm.kernels import sample_triton
from reelm.kernels.noise import gumbel, gumbel_noise
from reelm.kernels.sample import sample
from reelm.kernels.sample_triton import _gumbel, _noise_of_tile


@triton.jit
def gumbel_kernel(bits_ptr, out_ptr, N: tl.constexpr):
    place_N = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(out_ptr + place_N, _gumbel(tl.load(bits_ptr + place_N).to(tl.uint32)))


@triton.jit
def noise_kernel(keys_ptr, out_ptr, tile, N: tl.constexpr):
    seed, sample, position = tl.load(keys_ptr), tl.load(keys_ptr + 1), tl.load(keys_ptr + 2)
    tl.store(out_ptr + tl.arange(0, N), _noise_of_tile(tile, seed, sample, position, N))


def check_bits(out, run, *arguments):
    """The bits are those of `run`, on the CPU and on the device."""
    expected = run(*(x.cpu() for x in arguments))
    for found in (out, run(*arguments)):
        assert torch.equal(found.cpu().view(torch.int32), expected.view(torch.int32))


def test_the_gumbel_of_a_word_has_the_bits_of_the_reference():
    edges = [0, 2**31, 2**32, 0xB504F334, 0x5A827999]  # of the words, and where an octave begins
    powers = [2**power + offset for power in range(33) for offset in (-2, -1, 0, 1)]
    near = [edge + offset for edge in edges for offset in range(-40, 40)]
    special = torch.tensor([word for word in powers + near if 0 <= word < 2**32])
    random = torch.Generator().manual_seed(1)
    others = torch.randint(2**32, (2**17 - len(special),), generator=random, device="cpu")
    bits = torch.cat([special, others.to(special.device)])
    out = torch.empty(2**17)
    gumbel_kernel[(2**5,)](bits, out, N=2**12, enable_fp_fusion=False)
    check_bits(out, gumbel, bits)


@pytest.mark.parametrize("key", [(0, 0, 0), (2**63 - 1, 2**31 - 1, 2**40 + 3), (2**32 + 5, 3, 2**32 - 1), (7, 0, 1)])
def test_the_noise_of_a_tile_has_the_bits_of_the_reference(key):
    keys, out = torch.tensor(key), torch.empty(256)
    noise_kernel[(1,)](keys, out, 3, N=256, enable_fp_fusion=False)
    check_bits(out, lambda *keys: gumbel_noise(*keys, 1024)[0, 768:], *keys[:, None])


def scores_of(logits_RV, guidance_scale=1.0, temperature=1.0, **_):
    scores_BV = logits_RV.float()
    if guidance_scale != 1:
        conditional_BV, unconditional_BV = scores_BV.chunk(2)
        scores_BV = unconditional_BV + guidance_scale * (conditional_BV - unconditional_BV)
    return scores_BV * (1 / temperature if temperature else 1)


def at_a_border(score_V, token, top_k=None, top_p=1.0, **_):
    """Whether, in float64, a token's betters have `top_p` of the probability to 1e-5."""
    weight_V = (score_V.double() - score_V.max()).exp()
    if top_k is not None and top_k < len(score_V):
        weight_V[score_V < score_V.topk(top_k).values[-1]] = 0
    return abs(weight_V[score_V > score_V[token]].sum() / weight_V.sum() - top_p) < 1e-5


def check_tokens(logits_RV, keys, **options):
    """The tokens, which must be those of the reference."""
    tokens_B = sample(logits_RV, *keys, **options, backend="triton")
    expected_B = sample(logits_RV, *keys, **options, backend="reference")
    scores_BV = scores_of(logits_RV, **options)
    assert tokens_B.dtype == torch.int64 and tokens_B.shape == expected_B.shape
    for score_V, token, expected in zip(scores_BV, tokens_B, expected_B, strict=True):
        border = at_a_border(score_V, token, **options) or at_a_border(score_V, expected, **options)
        assert token == expected or border
    return tokens_B


def check_alone(tokens_B, logits_RV, keys, **options):
    """Each row has the same token alone."""
    for row, token in enumerate(tokens_B):
        alone = [x[row : row + 1] for x in keys]
        assert sample(logits_RV[row :: len(tokens_B)], *alone, **options, backend="triton") == token


def draw(V, rows, *, guided=False, spread=3.0, dtype=torch.float32, seed=0):
    random, device = torch.Generator().manual_seed(seed), torch.empty(0).device
    logits_RV = torch.randn(2 * rows if guided else rows, V, generator=random, device="cpu") * spread
    keys = [torch.randint(high, (rows,), generator=random, device="cpu") for high in (2**62, 4, 2**34)]
    return logits_RV.to(device, dtype), [x.to(device) for x in keys]


RULES = [
    pytest.param(2, {"top_k": 1}, id="two entries"),
    pytest.param(3, {"top_p": 0.6, "temperature": 2.0}, id="three entries"),
    pytest.param(63, {"min_p": 0.2}, id="min-p"),
    pytest.param(65, {"top_k": 7, "min_p": 0.3}, id="top-k and min-p"),
    pytest.param(1920, {"top_k": 50, "guidance_scale": 2.5, "temperature": 2.5}, id="top-k, guided"),
    pytest.param(1023, {"top_k": 150, "top_p": 0.9, "min_p": 0.02}, id="all, k over the groups"),
    pytest.param(3001, {"top_k": 1500, "top_p": 0.5}, id="a list of several blocks"),
    pytest.param(2500, {"top_p": 0.7, "min_p": 0.01}, id="top-p and min-p"),
    pytest.param(20011, {"top_p": 0.02, "temperature": 3.0}, id="top-p, several blocks, many rounds"),
    pytest.param(
        20011,
        {"top_k": 1300, "top_p": 0.3, "temperature": 3.0},
        id="top-k and top-p, groups of several blocks",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("V", "options"), RULES)
def test_sample_under_rules(V, options):
    logits_RV, keys = draw(V, 3, guided="guidance_scale" in options, spread=1.5, seed=1)
    tokens_B = check_tokens(logits_RV, keys, **options)
    check_alone(tokens_B, logits_RV, keys, **options)
    if V > 3:  # the rules had something to refuse
        free = {name: options[name] for name in options if name not in ("top_k", "top_p", "min_p")}
        assert not torch.equal(sample(logits_RV, *keys, **free, backend="triton"), tokens_B)


@pytest.mark.parametrize(
    ("V", "dtype"), [(2, torch.float16), (64, torch.float32), (1025, torch.bfloat16), (5000, torch.float32)]
)
def test_sample_without_rules(V, dtype):
    logits_RV, keys = draw(V, 4, guided=True, dtype=dtype)
    for options in ({}, {"temperature": 0.0}, {"temperature": 1.7}):
        options["guidance_scale"] = 3.0
        check_alone(check_tokens(logits_RV, keys, **options), logits_RV, keys, **options)


@st.composite
def cases(draw):
    """The arguments of `draw`, and options."""
    V = draw(st.integers(2, 70) | st.integers(71, 4000) | st.integers(4001, 12000))  # one tile, several, several blocks
    options = {
        "guidance_scale": draw(st.sampled_from([1.0, 0.0, 3.0])),
        "temperature": draw(st.sampled_from([1.0, 0.0, 0.3, 2.5])),
    }
    if draw(st.booleans()):
        options["top_k"] = draw(st.none() | st.integers(1, V + 1))
        options["top_p"] = draw(st.just(1.0) | st.floats(0.01, 1.0))
        options["min_p"] = draw(st.just(0.0) | st.floats(0.0, 1.0))
    logits = {
        "V": V, "rows": draw(st.integers(1, 4)), "guided": options["guidance_scale"] != 1,
        "spread": draw(st.floats(0.1, 5.0)), "seed": draw(st.integers(0, 1000)),
        "dtype": draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16])),
    }  # fmt: skip
    return logits, options


def test_sizes_and_options_that_hypothesis_draws(examples):
    @examples
    @given(cases())
    def is_right(case):
        logits, options = case
        logits_RV, keys = draw(**logits)
        check_alone(check_tokens(logits_RV, keys, **options), logits_RV, keys, **options)

    is_right()


def test_every_option_changes_tokens():
    logits_RV, keys = draw(500, 8, guided=True, spread=1.5)
    base = check_tokens(logits_RV, keys, guidance_scale=2.0)
    for options in (
        {"guidance_scale": 3.0}, {"guidance_scale": 0.0}, {"temperature": 0.5}, {"temperature": 0.0}, {"top_k": 3},
        {"top_p": 0.3}, {"min_p": 0.3}, {"noise_BV": torch.zeros(8, 500)},
    ):  # fmt: skip
        assert not torch.equal(check_tokens(logits_RV, keys, **({"guidance_scale": 2.0} | options)), base), options


ALL_RULES = ({}, {"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.5}, {"top_k": 3, "top_p": 0.8})


@pytest.mark.filterwarnings("ignore:invalid value encountered in subtract:RuntimeWarning")  # inf - inf
@pytest.mark.parametrize("options", ALL_RULES)
def test_what_is_ruled_out_is_never_drawn(options):
    logits_RV, keys = draw(1500, 6)
    banned = draw(1500, 6, seed=1)[0] < 4.0  # nine of ten
    logits_RV[banned] = -torch.inf
    logits_RV[1] = torch.nan
    logits_RV[2] = -torch.inf
    logits_RV[3, 700] = torch.inf
    logits_RV[4, :1499] = -torch.inf
    logits_RV[4, 1499] = -3.0
    tokens_B = check_tokens(logits_RV, keys, **options)
    assert tokens_B[1:5].tolist() == [0, 0, 700, 1499]
    assert not banned[0, tokens_B[0]] and not banned[5, tokens_B[5]]
    # Guidance between two -inf is NaN.
    doubled = check_tokens(logits_RV[[0, 5, 0, 5]], [x[[0, 5]] for x in keys], guidance_scale=2.0, **options)
    assert not banned[0, doubled[0]] and not banned[5, doubled[1]]


@pytest.mark.parametrize("options", ALL_RULES[:-1])
def test_equals_are_allowed_together_and_the_lowest_id_wins(options):
    # A few values alone, in logits and noise: equals everywhere, within a tile and across tiles.
    values_RV, keys = draw(1300, 8, guided=True)
    logits_RV, noise_BV = values_RV.round().abs().clamp(max=4).chunk(2)
    tokens_B = check_tokens(logits_RV, keys, noise_BV=noise_BV, **options)
    most = (0 if options.get("temperature") == 0 else 4) + logits_RV.amax(1)
    perturbed = logits_RV if options.get("temperature") == 0 else logits_RV + noise_BV
    assert tokens_B.tolist() == [row.eq(value).nonzero()[0, 0] for row, value in zip(perturbed, most, strict=True)]


def test_zeros_are_equal_whatever_their_sign():
    logits_RV, keys = torch.tensor([[-0.0, 0.0, -1.0]] * 2), draw(2, 2)[1]
    noise_BV = torch.tensor([[1.0, 0.0, 5.0], [0.0, 1.0, 5.0]])
    for options in ({"top_k": 1}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 1.0}):
        assert check_tokens(logits_RV, keys, noise_BV=noise_BV, **options).tolist() == [0, 1]


def test_any_strides():
    logits_RV, keys = draw(300, 4, guided=True)
    noise_BV = gumbel_noise(*keys, 300)
    wide = torch.full((8, 700), torch.nan)
    wide[:, 50:650:2] = logits_RV
    spread = [torch.stack([x, x + 1], 1)[:, 0] for x in keys]
    for options in ({}, {"top_k": 20, "top_p": 0.9}):
        options["guidance_scale"] = 2.0
        expected = sample(logits_RV, *keys, **options, backend="reference")
        assert torch.equal(sample(wide[:, 50:650:2], *spread, **options, backend="triton"), expected)
        wide[:, 100:400] = logits_RV
        assert torch.equal(sample(wide[:, 100:400], *keys, **options, backend="triton"), expected)
        wide[:, 50:650:2] = logits_RV
        turned = noise_BV.T.contiguous().T
        assert torch.equal(sample(logits_RV, *keys, noise_BV=turned, **options, backend="triton"), expected)


def test_no_rows():
    keys = [torch.zeros(0, dtype=torch.int64)] * 3
    assert sample(torch.zeros(0, 5), *keys, top_k=2, backend="triton").shape == (0,)


def test_the_reference_is_not_run(monkeypatch):
    ran = []
    monkeypatch.setattr(sample_triton, "sample_triton", lambda *args, **options: ran.append(args))
    keys = [torch.zeros(1, dtype=torch.int64)] * 3
    sample(torch.zeros(1, 5), *keys, backend="triton")
    assert len(ran) == 1


@pytest.mark.slow
@pytest.mark.parametrize("options", [*ALL_RULES, {"top_k": 50, "top_p": 0.95, "min_p": 0.01}])
def test_the_largest_vocabulary(options):
    logits_RV, keys = draw(262144, 1)
    check_tokens(logits_RV, keys, **options)
