"""The benchmark: what it counts, what it compares, what it refuses."""

import functools
import importlib.util

import pytest
import torch

from reelm.bench import variants
from reelm.bench.machine import measure_ceilings
from reelm.bench.report import BenchmarkReport
from reelm.bench.runs import run_clips
from reelm.bench.sampling import benchmark
from reelm.bench.variants import COMPILED, REFERENCE, Variant, compile_step, logits_difference, own_variants
from reelm.core.errors import ReelmError
from reelm.generation.request import make_request
from reelm.sampling.decoders import Jacobi, Sequential
from reelm.sampling.plan import ClipPlan, NoiseKey

FRAME_SIZE = 24  # tokens of a latent frame of the debug model


@pytest.fixture(scope="module", autouse=True)
def ceilings_once():
    """The ceilings of the machine are the same for every report, and take two seconds: they are measured once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reelm.bench.report.measure_ceilings", functools.cache(measure_ceilings))
        yield


def test_it_reports_rows_that_were_checked(debug_generator):
    report = benchmark(debug_generator, seconds=0.5, repeats=1, baselines=False, block_size=8)
    assert report["tokens_per_second"] > 0
    assert (report["frames"], report["decoder"]) == (5, "jacobi")
    shown = str(report)
    assert f"{report['tokens_per_second']:.4g}" in shown
    ours, sequential, whole = report["rows"]
    assert [row["mismatching_tokens"] for row in report["rows"]] == [0, 0, 0]
    assert ours["note"] == "jacobi, lossless, block 8"
    assert whole["note"] == f"jacobi, lossless, block {FRAME_SIZE}"
    assert sequential["ratio"] == sequential["tokens_per_pass"] == 1
    assert sequential["passes"] == 2 * FRAME_SIZE > ours["passes"] > whole["passes"]
    assert ours["ratio"] == pytest.approx(ours["tokens_per_second"] / sequential["tokens_per_second"])
    assert sequential["p50_ms"] <= sequential["p95_ms"]


def test_options_count(debug_generator):
    report = benchmark(debug_generator, seconds=0.5, repeats=1, baselines=False)
    one = benchmark(
        debug_generator, seconds=0.1, repeats=1, batch=2, guidance_scale=1.0, temperature=0.5, baselines=False
    )
    assert (one["batch"], one["guidance_scale"], one["temperature"], one["frames"]) == (2, 1.0, 0.5, 1)
    assert report["cache_bytes"] == one["cache_bytes"]  # one guided clip has two rows, two unguided ones have two
    alone = benchmark(debug_generator, decoder="sequential", check=True, baselines=False)
    assert (alone["decoder"], alone["frames"]) == ("sequential", 1)
    assert [row["row"] for row in alone["rows"]] == ["reelm", "reelm jacobi, a latent frame"]  # its own oracle
    assert alone["rows"][0]["ratio"] == 1
    assert alone["planned_memory_bytes"] < one["planned_memory_bytes"]


def test_a_lossless_decoder_that_is_not_is_found_out(debug_generator, monkeypatch):
    def hasty(self, engine):
        engine.drafts(4)
        engine.accept(engine.draw(engine.logits(4)), [min(4, limit) for limit in engine.limits])

    monkeypatch.setattr(Jacobi, "step", hasty)
    report = benchmark(debug_generator, check=True, baselines=False)
    assert report["rows"][0]["mismatching_tokens"] > 0
    assert not report["rows"][0]["ok"]
    assert report["rows"][1]["ok"]
    (row,) = (line for line in str(report).splitlines() if "jacobi, lossless, block 16" in line)
    assert row.split()[:2] == ["reelm", "FAIL"]


def test_a_way_with_wrong_logits_is_found_out(debug_generator, monkeypatch):
    parts = debug_generator.parts
    tokens_tS = torch.randint(25, (3, FRAME_SIZE), generator=torch.Generator().manual_seed(0))
    request = make_request(parts, "generate", "a red ball", {"num_videos_per_prompt": 2, "seed": 0})
    for decoder in (Sequential(), Jacobi(5), Jacobi(FRAME_SIZE)):
        for shown in (tokens_tS, tokens_tS[:1]):  # with a latent frame in the past, and without
            variant = Variant("", decoder, parts.lm)
            difference, largest = logits_difference(parts, variant, request, shown)
            assert difference < 1e-4 < 1 < largest
    monkeypatch.setattr(parts.lm.norm, "eps", 1.0)  # for steps alone
    masked = type(parts.lm).oracle

    def well(self, *arguments):
        with monkeypatch.context() as inner:
            inner.setattr(parts.lm.norm, "eps", 1e-6)
            return masked(self, *arguments)

    monkeypatch.setattr(type(parts.lm), "oracle", well)
    assert logits_difference(parts, variant, request, tokens_tS)[0] > 0.1
    rows = benchmark(debug_generator, check=True, baselines=False)["rows"]
    assert [row["ok"] for row in rows] == [False] * 3


# ---- other ways: compiled, without Triton


@pytest.mark.slow  # inductor takes its time
def test_a_compiled_step_draws_its_own_row(debug_generator, monkeypatch):
    monkeypatch.setattr("reelm.bench.sampling.hugging_face_rows", lambda *_: ([], {"transformers": "not here"}))
    report = benchmark(debug_generator, seconds=0.1, repeats=1, guidance_scale=1.0)
    assert report["left_out"].pop("transformers") == "not here"
    if report["left_out"]:  # no compiler here: then it says so
        assert report["left_out"][COMPILED].startswith("torch.compile failed: ")
        pytest.skip(report["left_out"][COMPILED])
    (row,) = (row for row in report["rows"] if row["row"] == COMPILED)
    assert row["ok"] and row["logits_difference"] < 1e-3
    assert row["note"].startswith("sequential, exact")


def test_what_cannot_be_compiled_is_left_out_and_says_why(debug_generator, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(torch, "compile", fail)
    assert (
        compile_step(debug_generator.parts, debug_generator.parts.lm, 1)
        == "torch.compile failed: RuntimeError: no compiler"
    )
    sampling = debug_generator.parts.config.sampling
    found, left_out = own_variants(debug_generator.parts, Sequential(), sampling, 1, compiled=True)
    assert (len(found), list(left_out)) == (2, [COMPILED])
    monkeypatch.setattr(variants, "available_memory", lambda device: 1000)
    assert "weights once more" in compile_step(debug_generator.parts, debug_generator.parts.lm, 1)
    monkeypatch.setattr("reelm.bench.transformers_baseline.available_memory", lambda device: 1000)
    left_out = benchmark(debug_generator, check=True)["left_out"]
    assert COMPILED in left_out  # never within a check
    assert "transformers" in left_out


def test_a_way_draws_with_its_own_step(debug_generator):
    parts, counts = debug_generator.parts, []

    class Spy(type(parts.lm)):
        def step(self, cache, count=1):
            counts.append(count)
            return parts.lm.step(cache, count)

    lm = variants._unpacked(parts.lm)
    lm.__class__ = Spy
    plans = [ClipPlan(prompts=((0, ""),), key=NoiseKey(0))]
    run_clips(parts, Variant("", Sequential(), lm), plans, parts.config.sampling, 1)
    assert counts == [1] * FRAME_SIZE


def test_without_triton_is_a_row_where_triton_is_in_use(debug_generator, monkeypatch):
    parts = debug_generator.parts
    monkeypatch.setattr(variants, "pick_backend", lambda *_: "triton")
    found, _ = own_variants(parts, Sequential(), parts.config.sampling, 1, compiled=False)
    assert [variant.lm.backend for variant in found] == [None, None, "reference"]
    assert found[2].name == REFERENCE
    assert parts.lm.backend is None


def test_whole_latent_frames_are_a_row_unless_they_are_large(debug_generator, monkeypatch):
    monkeypatch.setattr(variants, "LARGEST_BLOCK", FRAME_SIZE - 1)
    report = benchmark(debug_generator, check=True, baselines=False)
    assert [row["row"] for row in report["rows"]] == ["reelm", "reelm sequential"]
    assert report["left_out"][variants.BY_FRAMES] == "a latent frame of 24 tokens is more than 23"


# ---- sweeps


def test_a_sweep_over_depth_goes_beyond_the_ring(debug_generator, tmp_path):
    report = benchmark(debug_generator, sweep="depth", repeats=1, batch=2, decoder="sequential")
    points = report["depths"]
    assert [point["latent_frame"] for point in points] == [1, 5, 10, 20]
    assert [point["wrapped"] for point in points] == [False, False, True, True]
    assert [point["passes"] for point in points] == [FRAME_SIZE] * 4
    assert points[0]["tokens_per_second"] == pytest.approx(2 * FRAME_SIZE / points[0]["ms_per_latent_frame"] * 1e3)
    assert points[1]["ratio"] == pytest.approx(points[1]["tokens_per_second"] / points[0]["tokens_per_second"])
    assert (report["batch"], "rows" in report) == (2, False)
    assert str(report).splitlines()[-5].split()[:2] == ["latent", "frame"]
    report.plot(tmp_path / "depth.png")
    assert (tmp_path / "depth.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_over_batches_goes_as_far_as_it_is_told_or_memory_does(debug_generator, monkeypatch, tmp_path):
    options = {"sweep": "batch", "check": True}
    report = benchmark(debug_generator, batch=3, **options)
    assert [point["clips"] for point in report["batches"]] == [1, 2, 3]
    assert report["batches"][0]["note"].startswith("jacobi, block")
    assert (report["batch"], report["left_out"]) == (3, {})
    report.plot(tmp_path / "batch.png")
    assert (tmp_path / "batch.png").read_bytes().startswith(b"\x89PNG")

    def full(parts, request, **_):
        if len(request.plans) > 2:
            raise ReelmError("memory: full")

    monkeypatch.setattr("reelm.bench.sweep.admit", full)
    report = benchmark(debug_generator, **options)
    assert [point["clips"] for point in report["batches"]] == [1, 2]
    assert (report["batch"], report["left_out"]) == (2, {"4 clips": "memory: full"})


def test_what_does_not_fit_is_refused(debug_generator, monkeypatch):
    monkeypatch.setattr("reelm.generation.admission.available_memory", lambda device: 1000)
    for options in ({}, {"sweep": "depth"}, {"sweep": "batch"}):
        with pytest.raises(ReelmError, match="memory: must be at least"):
            benchmark(debug_generator, check=True, **options)


def test_a_report_tells_what_was_left_out():
    report = BenchmarkReport(model="x", left_out={"a row": "no compiler"}, rows=[])
    assert "left out  a row: no compiler" in str(report)
    assert "left out  nothing" in str(BenchmarkReport(report, left_out={}))


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the bench extra")
@pytest.mark.parametrize("options", [{}, {"guidance_scale": 1.0, "temperature": 0.0, "batch": 2}])
def test_transformers_draws_as_many_tokens_beside_it(debug_generator, options):
    report = benchmark(debug_generator, check=True, **options)
    names = [row["row"] for row in report["rows"]]
    assert names[3:] == ["transformers, static cache", "transformers, dynamic cache"]
    assert report["rows"][3]["ratio"] == 1
    assert all(row["tokens_per_second"] > 0 for row in report["rows"])


def test_ceilings_are_measured():
    ceilings = measure_ceilings(torch.device("cpu"), torch.float32, check=True)
    assert ceilings["copy_gb_s"] > 0
    assert ceilings["matmul_gflop_s"] > 0


@pytest.mark.parametrize("options", [{"batch": 0}, {"repeats": 0}, {"seconds": 0}, {"decoder": "x"}, {"sweep": "x"}])
def test_bad_options_are_refused(debug_generator, options):
    with pytest.raises(ReelmError, match=next(iter(options))):
        benchmark(debug_generator, **options)
