import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.sampling.rules import SamplingConfig, filter_logits, guide

LOGITS = st.lists(st.floats(-8, 8, allow_nan=False, width=32), min_size=2, max_size=30)


def kept(logits, **options):
    scores = filter_logits(torch.tensor([logits]), SamplingConfig(**options))[0]
    return {index for index, value in enumerate(scores.tolist()) if value > -float("inf")}


@given(LOGITS, st.integers(1, 40))
def test_top_k_keeps_the_k_best(logits, k):
    ranked = sorted(logits, reverse=True)
    least = ranked[min(k, len(logits)) - 1]
    assert kept(logits, top_k=k) == {i for i, value in enumerate(logits) if value >= least}


@given(LOGITS, st.floats(0.01, 0.99))
def test_top_p_keeps_the_fewest_that_reach_p(logits, p):
    probabilities = torch.tensor(logits).softmax(-1).tolist()
    chosen = kept(logits, top_p=p)
    total = sum(probabilities[i] for i in chosen)
    assert max(range(len(logits)), key=logits.__getitem__) in chosen or len(chosen) >= 1
    assert total > p - 1e-5
    assert total - min(probabilities[i] for i in chosen) < p + 1e-5
    assert min(probabilities[i] for i in chosen) >= max(
        [probabilities[i] for i in range(len(logits)) if i not in chosen] or [0]
    )


@given(LOGITS, st.floats(0.01, 0.99))
def test_min_p_is_relative_to_the_best(logits, p):
    probabilities = torch.tensor(logits, dtype=torch.float64).softmax(-1).tolist()
    best = max(probabilities)
    chosen = kept(logits, min_p=p)
    for index, value in enumerate(probabilities):
        if abs(value / best - p) > 1e-4:
            assert (index in chosen) == (value / best > p)


@given(LOGITS, st.floats(0.1, 5))
def test_temperature_divides_and_zero_is_the_best(logits, temperature):
    scores = filter_logits(torch.tensor([logits]), SamplingConfig(temperature=temperature))
    assert torch.allclose(scores, torch.tensor([logits]) / temperature)
    assert kept(logits, temperature=0) == {logits.index(max(logits))}


def test_processors_run_in_order_on_ids_and_scores():
    ids = torch.tensor([[4, 2]])

    def ban_last(input_ids, scores):
        assert torch.equal(input_ids, ids)
        return scores.scatter(1, input_ids[:, -1:], -float("inf"))

    scores = filter_logits(torch.zeros(1, 5), SamplingConfig(), [ban_last, lambda _, s: s + 1], ids)
    assert scores[0].tolist() == [1, 1, -float("inf"), 1, 1]


def test_guidance_ends_at_its_two_logits():
    conditional, unconditional = torch.randn(2, 3, 7)
    assert torch.allclose(guide(conditional, unconditional, 1.0), conditional, atol=1e-6)
    assert torch.equal(guide(conditional, unconditional, 0.0), unconditional)
    assert torch.allclose(
        guide(conditional, unconditional, 3.0) - unconditional, 3 * (conditional - unconditional), atol=1e-5
    )


@pytest.mark.parametrize("option", [
    {"top_k": 0}, {"top_k": 1.5}, {"top_p": 1.5}, {"top_p": 0.0}, {"temperature": -0.1}, {"temperature": float("nan")},
    {"min_p": -1.0}, {"min_p": 2.0}, {"guidance_scale": -1.0}, {"guidance_scale": float("inf")},
])  # fmt: skip
def test_options_out_of_range_are_refused(option):
    with pytest.raises(ReelmError, match=f"{next(iter(option))}: must"):
        SamplingConfig(**option)
