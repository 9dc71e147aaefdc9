"""`reelm bench kernels`, as far as it goes without a GPU: every row runs and is compared, and a wrong one is told."""

import json

import pytest
import torch

from reelm import cli
from reelm.bench import kernel_report as benchmark
from reelm.bench.kernel_cases import ENTRIES, all_cases
from reelm.bench.kernel_report import Case, benchmark_kernels
from reelm.core.errors import ReelmError

on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def case(**rows):
    x = torch.arange(4.0)
    return Case(op="attention", name="made up", rows=rows, expected=lambda: x, tolerance=1e-3, flops=1e9, nbytes=1e6)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("op", ENTRIES)
def test_every_row_of_every_op_runs_and_is_right(op):
    document = benchmark_kernels(all_cases(True, op), check=True)
    assert document["rows"]
    for row in document["rows"]:
        assert row["op"] == op and row["ok"], row
        assert "microseconds" not in row


def test_a_wrong_row_and_one_that_cannot_run_are_told_and_get_no_time():
    def broken():
        raise RuntimeError("no kernel\nfor this")

    rows = {"reelm": lambda: torch.arange(4.0) * 1.1, "baseline": broken, "other": lambda: torch.zeros(3)}
    document = benchmark_kernels(iter([lambda: case(**rows)]), check=True)
    wrong, failed, shape = document["rows"]
    assert wrong["ok"] is False and wrong["error"] == pytest.approx(0.1)
    assert failed["failed"] == "RuntimeError: no kernel"
    assert "must have shape" in shape["failed"]
    assert [line.count("FAIL") for line in str(document).splitlines()] == [0, 1, 1, 1]


def test_rows_take_turns_and_the_median_is_told(monkeypatch):
    turns, clock = [], {"reelm": iter([10.0, 30.0, 20.0]), "baseline": iter([40.0, 40.0, 90.0])}

    def milliseconds(name):
        turns.append(name)
        return next(clock[name])

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(benchmark, "_header", lambda: {"hardware": "made up", "date": "", "commit": "", "versions": {}})
    monkeypatch.setattr(benchmark, "_ceilings", lambda: {"copy_gb_s": 1000.0, "matmul_tflop_s": 10.0})
    monkeypatch.setattr(benchmark, "_repeated", lambda run, capture: run)
    monkeypatch.setattr(benchmark, "_milliseconds", lambda call: milliseconds(call()))

    rows = {name: (lambda name=name: name) for name in ("reelm", "baseline")}
    monkeypatch.setattr(benchmark, "_relative_error", lambda found, expected: 0.0)
    document = benchmark_kernels(iter([lambda: case(**rows)]), rounds=3)
    ours, baseline = document["rows"]
    assert turns == ["reelm", "baseline"] * 3
    assert (ours["microseconds"], baseline["microseconds"]) == (2000.0, 4000.0)  # ten calls a look at the clock
    assert ours["best_peer_over_ours"] == 2.0
    assert ours["tflop_s"] == pytest.approx(0.5) and ours["share_of_matmul"] == pytest.approx(0.05)
    assert ours["gb_s"] == pytest.approx(0.5) and ours["share_of_copy"] == pytest.approx(0.0005)
    assert "2.00 x the best baseline" in str(document)


@on_cpu
def test_without_a_gpu_nothing_is_measured():
    with pytest.raises(ReelmError, match="device: must be a CUDA GPU to measure"):
        benchmark_kernels(all_cases(False))


@pytest.mark.parametrize(("options", "message"), [({"rounds": 0}, "rounds: must be at least 1")])
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ReelmError, match=message):
        benchmark_kernels(all_cases(True), check=True, **options)


def test_an_unknown_op_is_refused(capsys):
    assert cli.main(["bench", "kernels", "--check", "--only", "sort"]) == 2
    assert "only: must be one of attention" in capsys.readouterr().err


def test_the_command_prints_a_table_and_one_line_of_json(capsys):
    assert cli.main(["bench", "kernels", "--check", "--only", "decode_attention"]) == 0
    *lines, last = capsys.readouterr().out.strip().splitlines()
    assert json.loads(last)["check"] is True
    assert sum(" ok, error " in line for line in lines) == len(json.loads(last)["rows"])
