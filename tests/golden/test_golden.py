"""Golden numbers: what the models made when numbers.json was written, they make today (`make golden` writes it anew).

Tokens must be the same. Pixels may be off by one level, losses and scores by a thousandth, as on another CPU. With the
environment variable REELM_GOLDEN_EXACT=1 they must have the same bits: for one machine, before and after a change.
"""

import os

import numpy as np
import pytest
import torch

from reelm.tests.golden import ledger, pixel_cases, score_cases, token_cases, training_cases
from reelm.tests.golden.models import Models, has_int8_weights

EXACT = os.environ.get("REELM_GOLDEN_EXACT") == "1"
KEPT = ledger.read()
CASES = {
    "tokens": token_cases.CASES,
    "pixels": pixel_cases.CASES,
    "scores": score_cases.CASES,
    "losses": training_cases.CASES,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def one_thread():
    """Sums are split among threads, and their last bits with them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_case_has_a_number_and_every_number_a_case():
    assert {kind: set(cases) for kind, cases in CASES.items()} == {kind: set(cases) for kind, cases in KEPT.items()}


@pytest.mark.parametrize("name", CASES["tokens"])
def test_tokens(models, tmp_path, name):
    case = CASES["tokens"][name]
    if case.weights == "int8" and not has_int8_weights():
        pytest.skip("this machine has no int8 products")
    assert ledger.token_numbers(case.run(models, tmp_path)) == KEPT["tokens"][name]


@pytest.mark.parametrize("name", CASES["pixels"])
def test_pixels(models, name):
    found, kept = ledger.pixel_numbers(CASES["pixels"][name](models)), KEPT["pixels"][name]
    assert found["shape"] == kept["shape"]
    assert np.abs(np.subtract(found["sample"], kept["sample"])).max() <= 1
    assert found["sha256"] == kept["sha256"] or not EXACT


@pytest.mark.parametrize("name", CASES["scores"])
def test_scores(models, name):
    found, kept = ledger.score_numbers(CASES["scores"][name](models)), KEPT["scores"][name]
    assert found["shape"] == kept["shape"]
    assert [found["mean"], *found["first"]] == pytest.approx([kept["mean"], *kept["first"]], rel=1e-3, abs=1e-4)
    assert found["sha256"] == kept["sha256"] or not EXACT


@pytest.mark.parametrize("name", CASES["losses"])
def test_losses(tmp_path, name):
    found, kept = ledger.loss_numbers(*training_cases.run(name, tmp_path)), KEPT["losses"][name]
    assert len(found["losses"]) == training_cases.STEPS
    assert found["losses"] == pytest.approx(kept["losses"], rel=1e-3)
    assert found == kept or not EXACT
