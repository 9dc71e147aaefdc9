"""The benchmark: what it counts, what it compares, what it refuses."""

import importlib.util

import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.sampling.decoders import Jacobi
from reelm.sampling.machine import measure_ceilings


def test_it_reports_rows_that_were_checked(debug_generator):
    report = debug_generator.benchmark(seconds=0.5, repeats=1, peers=False, block_size=8)
    assert report["tokens_per_second"] > 0
    assert (report["frames"], report["decoder"]) == (5, "jacobi")
    shown = str(report)
    assert f"{report['tokens_per_second']:.4g}" in shown
    ours, sequential, whole = report["rows"]
    assert [row["mismatching_tokens"] for row in report["rows"]] == [0, 0, 0]
    assert ours["says"] == "jacobi, lossless, block 8"
    assert whole["says"] == "jacobi, lossless, block 64"
    assert sequential["ratio"] == sequential["tokens_per_pass"] == 1
    assert sequential["passes"] == 128 > ours["passes"] > whole["passes"]
    assert ours["ratio"] == pytest.approx(ours["tokens_per_second"] / sequential["tokens_per_second"])
    assert sequential["p50_ms"] <= sequential["p95_ms"]


def test_options_count(debug_generator):
    report = debug_generator.benchmark(seconds=0.5, repeats=1, peers=False)
    one = debug_generator.benchmark(seconds=0.1, repeats=1, batch=2, guidance_scale=1.0, temperature=0.5, peers=False)
    assert (one["batch"], one["guidance_scale"], one["temperature"], one["frames"]) == (2, 1.0, 0.5, 1)
    assert report["cache_bytes"] == one["cache_bytes"]  # one guided clip has two rows, two unguided ones have two
    alone = debug_generator.benchmark(decoder="sequential", check=True, peers=False)
    assert (alone["decoder"], alone["frames"]) == ("sequential", 1)


def test_a_lossless_decoder_that_is_not_is_found_out(debug_generator, monkeypatch):
    def hasty(self, rollout):
        rollout.drafts(4)
        rollout.accept(rollout.draw(rollout.logits(4)), [min(4, room) for room in rollout.room])

    monkeypatch.setattr(Jacobi, "step", hasty)
    report = debug_generator.benchmark(check=True, peers=False)
    assert report["rows"][0]["mismatching_tokens"] > 0


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the bench extra")
@pytest.mark.parametrize("options", [{}, {"guidance_scale": 1.0, "temperature": 0.0, "batch": 2}])
def test_transformers_draws_as_many_tokens_beside_it(debug_generator, options):
    report = debug_generator.benchmark(check=True, **options)
    names = [row["row"] for row in report["rows"]]
    assert names[3:] == ["transformers, static cache", "transformers, dynamic cache"]
    assert report["rows"][3]["ratio"] == 1
    assert all(row["tokens_per_second"] > 0 for row in report["rows"])


def test_ceilings_are_measured():
    ceilings = measure_ceilings(torch.device("cpu"), torch.float32, check=True)
    assert ceilings["copy_gb_s"] > 0
    assert ceilings["matmul_gflop_s"] > 0


@pytest.mark.parametrize("options", [{"batch": 0}, {"repeats": 0}, {"seconds": 0}, {"decoder": "x"}])
def test_bad_options_are_refused(debug_generator, options):
    with pytest.raises(ReelmError, match=next(iter(options))):
        debug_generator.benchmark(**options)
