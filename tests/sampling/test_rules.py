import pytest

from reelm.core.errors import ReelmError
from reelm.sampling.plan import SamplingConfig


@pytest.mark.parametrize("option", [
    {"top_k": 0}, {"top_k": 1.5}, {"top_p": 1.5}, {"top_p": 0.0}, {"temperature": -0.1}, {"temperature": float("nan")},
    {"temperature": 1e-9}, {"min_p": -1.0}, {"min_p": 2.0}, {"guidance_scale": -1.0}, {"guidance_scale": float("inf")},
])  # fmt: skip
def test_options_out_of_range_are_refused(option):
    with pytest.raises(ReelmError, match=f"{next(iter(option))}: must"):
        SamplingConfig(**option)


def test_the_ends_of_the_ranges_are_taken():
    for ends in (
        {"guidance_scale": 0.0, "temperature": 0.0, "top_k": 1, "top_p": 1e-3, "min_p": 1.0},
        {"guidance_scale": 100.0, "temperature": 100.0, "top_k": None, "top_p": 1.0, "min_p": 0.0},
    ):
        assert SamplingConfig(**ends).rules == ends
