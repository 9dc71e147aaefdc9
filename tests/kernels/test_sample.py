"""`sample` on the reference, against the definition in float64 one token at a time."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.kernels.noise import gumbel_noise
from reelm.kernels.sample import sample
from reelm.kernels.sample_cpu import FEW, leaves_few
from reelm.tests.examples import examples

KEYS = [torch.tensor([1, 2]), torch.tensor([0, 1]), torch.tensor([7, 9])]


def allowed(scores, *, top_k=None, top_p=1.0, min_p=0.0):
    """Which entries may be drawn, by the definition, and how far the nearest one is from a border."""
    entries, best = range(len(scores)), max(scores)
    if best == -math.inf:
        return [], 1.0
    betters = {i: [j for j in entries if scores[j] > scores[i]] for i in entries}
    left = [i for i in entries if top_k is None or len(betters[i]) < top_k]
    weights = {i: math.exp(scores[i] - best) for i in left}
    shares = {i: sum(weights[j] for j in betters[i]) / sum(weights.values()) for i in left}
    chosen = [
        i for i in left if (shares[i] < top_p or scores[i] == best) and weights[i] >= min_p and scores[i] > -math.inf
    ]
    margin = min(min(abs(shares[i] - top_p), abs(weights[i] - min_p) if min_p else 1.0) for i in left)
    return chosen, margin


def slow_sample(conditional, unconditional, noise, *, guidance_scale=1.0, temperature=1.0, **rules):
    """The token of one row, from lists of floats, and how far it is from being another one."""
    scores = [u + guidance_scale * (c - u) for c, u in zip(conditional, unconditional, strict=True)]
    # Scores that differ by less than float32 can tell are equal there.
    ordered = sorted({score for score in scores if score > -math.inf})
    gap = min((above - below for below, above in itertools.pairwise(ordered)), default=1.0)
    if temperature == 0:
        return scores.index(max(scores)), gap
    scores = [score / temperature for score in scores]
    chosen, margin = allowed(scores, **rules)
    margin = min(margin, gap)
    ranked = sorted(chosen, key=lambda i: -(scores[i] + noise[i]))
    if len(ranked) > 1:
        margin = min(margin, scores[ranked[0]] + noise[ranked[0]] - scores[ranked[1]] - noise[ranked[1]])
    return (ranked[0] if ranked else 0), margin


@st.composite
def cases(draw):
    """Logits with many equal ones or none, their keys and the options; on the grid all but exp is exact in float32."""
    B, V = draw(st.integers(1, 3)), draw(st.integers(2, 40))
    options = {
        "guidance_scale": draw(st.sampled_from([1.0, 0.0, 0.5, 3.0])),
        "temperature": draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])),
        "top_k": draw(st.none() | st.integers(1, V + 1)),
        "top_p": draw(st.just(1.0) | st.floats(0.01, 0.99)),
        "min_p": draw(st.just(0.0) | st.floats(0.001, 1.0)),
    }
    value = draw(st.sampled_from([st.integers(-6, 6).map(lambda n: n / 2), st.floats(-8, 8, width=16)]))
    rows = B if options["guidance_scale"] == 1 else 2 * B
    logits = draw(st.lists(st.lists(value, min_size=V, max_size=V), min_size=rows, max_size=rows))
    keys = [draw(st.lists(st.integers(0, high), min_size=B, max_size=B)) for high in (2**63 - 1, 3, 2**40)]
    return torch.tensor(logits), [torch.tensor(numbers) for numbers in keys], options


@examples(100)
@given(cases())
def test_tokens_equal_the_definition(case):
    logits_RV, keys, options = case
    tokens = sample(logits_RV, *keys, **options, backend="reference").tolist()
    noise_BV = gumbel_noise(*keys, logits_RV.shape[1])
    both = logits_RV.chunk(2) if options["guidance_scale"] != 1 else (logits_RV, logits_RV)
    for row, token in enumerate(tokens):
        expected, margin = slow_sample(*(x[row].tolist() for x in both), noise_BV[row].tolist(), **options)
        assume(margin > 1e-5)
        assert token == expected


@pytest.mark.parametrize("rules", [{}, {"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.4}, {"top_k": 4, "top_p": 0.9}])
def test_tokens_have_the_softmax_of_what_is_allowed(rules):
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, 1.75])
    count = 20_000
    keys = [torch.full((count,), 5), torch.zeros(count, dtype=torch.int64), torch.arange(count)]
    tokens = sample(logits.expand(count, -1), *keys, temperature=2.0, **rules)
    chosen, _ = allowed((logits.double() / 2).tolist(), **rules)
    expected = torch.zeros(6)
    expected[chosen] = (logits[chosen] / 2).softmax(0)
    drawn = torch.bincount(tokens, minlength=6) / count
    assert len(chosen) == 6 or rules
    assert drawn[expected == 0].sum() == 0
    assert (drawn - expected).abs().max() < 5 * math.sqrt(0.25 / count)


def test_every_option_changes_tokens():
    random = torch.Generator().manual_seed(0)
    logits_RV = torch.randn(32, 500, generator=random) * 1.5
    keys = [torch.arange(16), torch.zeros(16, dtype=torch.int64), torch.arange(16)]
    base = sample(logits_RV, *keys, guidance_scale=2.0)
    for options in (
        {"guidance_scale": 3.0}, {"guidance_scale": 0.0}, {"temperature": 0.5}, {"temperature": 0.0}, {"top_k": 3},
        {"top_p": 0.3}, {"min_p": 0.3}, {"noise_BV": torch.zeros(16, 500)},
    ):  # fmt: skip
        assert not torch.equal(sample(logits_RV, *keys, **({"guidance_scale": 2.0} | options)), base), options


def test_noise_drawn_ahead_is_the_noise():
    logits_BV = torch.randn(2, 300, generator=torch.Generator().manual_seed(1))
    drawn_ahead = sample(logits_BV, *KEYS, noise_BV=gumbel_noise(*KEYS, 300), top_k=40)
    assert torch.equal(drawn_ahead, sample(logits_BV, *KEYS, top_k=40))


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.5}])
def test_what_is_ruled_out_is_never_drawn(options):
    random = torch.Generator().manual_seed(2)
    logits_BV = torch.randn(8, 50, generator=random)
    banned = torch.rand(8, 50, generator=random) < 0.9
    logits_BV[banned] = -torch.inf
    logits_BV[1], logits_BV[2], logits_BV[3, 20] = torch.nan, -torch.inf, torch.inf
    keys = [torch.arange(8)] * 3
    tokens = sample(logits_BV, *keys, **options)
    assert tokens[1:4].tolist() == [0, 0, 20]
    assert not banned[torch.arange(8), tokens][[0, 4, 5, 6, 7]].any()
    # Guidance between two -inf is NaN.
    guided = sample(logits_BV[4:].repeat(2, 1), *(x[4:] for x in keys), guidance_scale=2.0, **options)
    assert not banned[torch.arange(4, 8), guided].any()


@examples(60)
@given(st.data())
def test_the_noise_of_few_tokens_alone_gives_the_same_tokens(data):
    """Logits with equal ones at the border of top-k, -inf, NaN and empty rows, on the path that `leaves_few` opens."""
    top_k, rows = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    vocab_size = data.draw(st.integers(FEW * top_k, 100))
    choices = {"guidance_scale": [1.0, 3.0], "temperature": [0.01, 0.7], "top_k": [top_k], "min_p": [0.0, 0.3]}
    rules = {name: data.draw(st.sampled_from(values)) for name, values in choices.items()}
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    steps = data.draw(st.sampled_from([1, 100]))  # few steps make equal logits
    logits_RV = torch.randn(rows * (2 if rules["guidance_scale"] != 1 else 1), vocab_size, generator=random) * steps
    logits_RV = logits_RV.round() / steps
    logits_RV[torch.rand(logits_RV.shape, generator=random) < data.draw(st.sampled_from([0.0, 0.5, 0.99]))] = -torch.inf
    logits_RV[0, : data.draw(st.sampled_from([0, 1, vocab_size]))] = torch.nan
    keys = [torch.randint(-(2**62), 2**62, (rows,), generator=random) for _ in range(3)]
    assert leaves_few(top_k, 1.0, vocab_size, "cpu")
    found = sample(logits_RV, *keys, **rules)
    assert found.tolist() == sample(logits_RV, *keys, **rules, backend="reference").tolist()


@pytest.mark.parametrize("temperature", [1e-6, 1e-5, 1e-3, 0.09, 1.0])
@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
def test_equal_logits_are_drawn_equally_often_at_any_temperature(temperature, guidance_scale):
    count, equals = 4000, [3, 17, 90]
    logits = torch.linspace(-9, 9, 100)
    logits[equals] = 22.37
    both = torch.stack([logits, logits / 3] if guidance_scale != 1 else [logits]).repeat_interleave(count, 0)
    keys = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64), torch.arange(count)
    tokens = sample(both, *keys, temperature=temperature, guidance_scale=guidance_scale)
    counts = torch.stack([(tokens == token).sum() for token in equals])
    assert int(counts.sum()) == count
    assert (counts - count / 3).abs().max() < 4.5 * (count * 2 / 9) ** 0.5  # standard deviations


def test_equals_are_allowed_together_and_the_lowest_id_wins():
    logits_BV = torch.tensor([[1.0, 2.0, 2.0, 0.0], [2.0, -0.0, 0.0, 2.0]])
    for options in ({"top_k": 1}, {"top_p": 0.4}, {"min_p": 0.9}, {"temperature": 0.0}):
        assert sample(logits_BV, *KEYS, noise_BV=torch.zeros(2, 4), **options).tolist() == [1, 0]
    last = torch.tensor([[0.0, 1.0, 2.0, 3.0]] * 2)
    for options in ({"top_k": 1}, {"top_p": 0.4}, {"min_p": 0.9}):
        assert sample(logits_BV, *KEYS, noise_BV=last, **options).tolist() == [2, 3]
    # Zeros are equal whatever their sign.
    signs_BV = torch.tensor([[0.0, -0.0, -9.0, -9.0], [-0.0, 0.0, -9.0, -9.0]])
    assert sample(signs_BV, *KEYS, noise_BV=last, top_k=1).tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_float32_from_the_start(dtype):
    logits_RV = torch.randn(4, 200, generator=torch.Generator().manual_seed(4)).to(dtype)
    options = {"guidance_scale": 3.0, "temperature": 0.7, "top_p": 0.9}
    assert torch.equal(sample(logits_RV, *KEYS, **options), sample(logits_RV.float(), *KEYS, **options))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits_RV": torch.zeros(8)}, "logits_RV: must have 2 dimensions"),
        ({"logits_RV": torch.zeros(2, 8).double()}, "logits_RV: must be float32, bfloat16 or float16"),
        ({"logits_RV": torch.zeros(2, 1)}, "logits_RV: must have at least 2 entries a row, got 1"),
        ({"logits_RV": torch.zeros(3, 8), "guidance_scale": 2.0}, "logits_RV: must have an even number of rows"),
        ({"guidance_scale": 2.0}, r"seeds_B: must have shape \(1,\), got \(2,\)"),
        ({"seeds_B": torch.zeros(3, dtype=torch.int64)}, r"seeds_B: must have shape \(2,\)"),
        ({"samples_B": torch.zeros(2, 1, dtype=torch.int64)}, r"samples_B: must have shape \(2,\)"),
        ({"positions_B": torch.zeros(2, dtype=torch.int32)}, "positions_B: must be int64"),
        ({"positions_B": torch.zeros(2, dtype=torch.int64, device="meta")}, "positions_B: must be on cpu"),
        ({"noise_BV": torch.zeros(2, 9)}, r"noise_BV: must have shape \(2, 8\)"),
        ({"noise_BV": torch.zeros(2, 8).half()}, "noise_BV: must be float32"),
        ({"noise_BV": torch.zeros(2, 8, device="meta")}, "noise_BV: must be on cpu"),
        ({"guidance_scale": -1.0}, "guidance_scale: must be between 0 and 100"),
        ({"guidance_scale": float("inf")}, "guidance_scale: must be between 0 and 100"),
        ({"temperature": -0.1}, "temperature: must be 0 or between 1e-6 and 100"),
        ({"temperature": 1e-7}, "temperature: must be 0 or between 1e-6 and 100"),
        ({"temperature": float("nan")}, "temperature: must be 0 or between 1e-6 and 100"),
        ({"top_k": 0}, "top_k: must be a whole number of at least 1, or None"),
        ({"top_k": 1.5}, "top_k: must be a whole number of at least 1, or None"),
        ({"top_p": 0.0}, "top_p: must be above 0 and at most 1"),
        ({"min_p": 2.0}, "min_p: must be between 0 and 1"),
        ({"backend": "cuda"}, "backend: must be one of"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    numbers = torch.zeros(2, dtype=torch.int64)
    arguments = {"logits_RV": torch.zeros(2, 8), "seeds_B": numbers, "samples_B": numbers, "positions_B": numbers}
    with pytest.raises(ReelmError, match=f"^{message}"):
        sample(**(arguments | changes))
