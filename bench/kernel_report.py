"""Compare the kernels with torch's implementations, on one GPU in one run: `reelm bench kernels`.

    report = measure_kernels()                     # kernel_cases.py; report["copy_gb_s"], report["rows"]
    report = measure_kernels(check=True)           # tiny sizes and no times: does everything run here?
    print(report)

A case is one problem, and its rows are implementations: reelm's kernel and torch's alternatives. The rows are measured
alternately, in rounds, so that a drift of the GPU's clock affects all of them. Before a row is timed, its result is
compared with the case's reference: a wrong row is reported as failed and gets no time, and a baseline that cannot run
here is reported with the reason. A time is the median over the rounds of the mean over the calls in a CUDA graph, or
over plain calls where a row cannot be captured. The copy bandwidth and matrix multiplication rate that rows are
compared with are measured in the same run.
"""

import datetime
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..core.errors import require
from ..core.progress import note

Run = Callable[[], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One problem and the implementations that solve it.

    Attributes:
        op: The op that is measured.
        name: The sizes and settings, for the report.
        rows: The implementations by name; reelm's own is "reelm".
        expected: A function that returns the correct result, in a higher precision than that of the rows.
        tolerance: The largest relative error (of norms) of a row; 0 where results are whole numbers and must be equal.
        flops: The FLOPs that the problem needs, without those that the mask removes.
        nbytes: The bytes that have to be read and written at least.
        capture: Whether the rows can be captured in a CUDA graph.
    """

    op: str
    name: str
    rows: Mapping[str, Run]
    expected: Run
    tolerance: float
    flops: float = 0.0
    nbytes: float = 0.0
    capture: bool = True


class KernelReport(dict[str, Any]):
    """The machine, and the results of each row of each case under "rows"; printed with one line for each row."""

    @property
    def ok(self) -> bool:
        """Whether all results of reelm's own rows are correct."""
        return all(row["ok"] for row in self["rows"] if row["row"] == "reelm")

    def __str__(self) -> str:
        lines = [f"{self['hardware']}, {self['date']}, commit {self['commit']}, {self['versions']}"]
        if not self["check"]:
            lines.append(f"copy {self['copy_gb_s']:.0f} GB/s, matmul {self['matmul_tflop_s']:.0f} TFLOP/s")
        return "\n".join([*lines, *map(_line, self["rows"])])


@dataclass
class _Row:
    name: str
    call: Callable[[], None]
    times: list[float] = field(default_factory=list)


def benchmark_kernels(cases: Iterator[Callable[[], Case]], *, check: bool = False, rounds: int = 7) -> KernelReport:
    """Measure every case on this GPU.

    Args:
        cases: Functions that each make one case; see `kernel_cases.all_cases`.
        check: Whether to run and compare each row once, on the device of the cases, without times.
        rounds: The number of rounds; each measures every row of a case once.

    Raises:
        ReelmError: There is no GPU and `check` is False, or `rounds` is below 1.
    """
    can_run = check or torch.cuda.is_available()
    require(can_run, "device", "must be a CUDA GPU to measure (a check needs none)", "cpu")
    require(rounds >= 1, "rounds", "must be at least 1", rounds)
    report = KernelReport(benchmark="kernels", check=check, **_header())
    if not check:
        report |= _ceilings()
    report["rows"] = []
    for make_case in cases:
        case = make_case()
        note(f"{case.op}: {case.name}")
        report["rows"] += _measure(case, check, rounds, report)
        del case
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return report


def _measure(case: Case, check: bool, rounds: int, report: KernelReport) -> list[dict[str, Any]]:
    """Check the results of a case's rows, then time the correct rows alternately."""
    expected, results, timed = case.expected(), [], []
    for name, run in case.rows.items():
        result: dict[str, Any] = {"op": case.op, "case": case.name, "row": name}
        results.append(result)
        try:
            difference = _relative_error(run(), expected)
            result |= {"error": difference, "ok": difference <= case.tolerance}
            if not check and result["ok"]:
                timed.append((result, _Row(name, _repeated(run, case.capture))))
        except Exception as error:  # any row may be unable to run here: it is reported as failed
            result |= {"ok": False, "failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    del expected
    for _ in range(rounds):
        for _, row in timed:
            row.times.append(_milliseconds(row.call))
    for result, row in timed:
        milliseconds = statistics.median(row.times) / CALLS
        result |= {"microseconds": 1e3 * milliseconds, "spread": max(row.times) / min(row.times) - 1}
        if case.flops:
            rate = case.flops / milliseconds / 1e9
            result |= {"tflop_s": rate, "share_of_matmul": rate / report["matmul_tflop_s"]}
        if case.nbytes:
            rate = case.nbytes / milliseconds / 1e6
            result |= {"gb_s": rate, "share_of_copy": rate / report["copy_gb_s"]}
    ours = next((r for r in results if r["row"] == "reelm"), {})
    baselines = [r["microseconds"] for r in results if r["row"] != "reelm" and "microseconds" in r]
    if baselines and "microseconds" in ours:
        ours["best_peer_over_ours"] = min(baselines) / ours["microseconds"]
    return results


def _relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return |actual - expected| / |expected|, or for whole numbers the share of elements that differ."""
    require(actual.shape == expected.shape, "result", f"must have shape {tuple(expected.shape)}", tuple(actual.shape))
    if not expected.is_floating_point():
        return float((actual != expected).double().mean())
    difference = (actual.detach().double() - expected.detach().double()).norm()
    return float(difference / expected.detach().double().norm().clamp(min=1e-30))


CALLS = 10  # calls per measured time


def _repeated(run: Run, capture: bool) -> Callable[[], None]:
    """Warm up, then return a function that calls `run` CALLS times, as a CUDA graph where `capture` allows it."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()

    def plain() -> None:
        for _ in range(CALLS):
            run()

    if not capture:
        return plain
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plain()
    graph.replay()
    return graph.replay


def _milliseconds(call: Callable[[], None]) -> float:
    """Return the milliseconds that the GPU takes for a call."""
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop)


def _ceilings() -> dict[str, float]:
    """Measure the copy bandwidth (bytes read and written) and the bfloat16 matmul rate of this GPU."""
    source = torch.empty(2**30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    a, b = torch.randn(2, 8192, 8192, device="cuda").bfloat16()
    copy = _repeated(lambda: target.copy_(source), True)
    matmul = _repeated(lambda: a @ b, True)
    copies, matmuls = [], []
    for _ in range(7):
        copies.append(_milliseconds(copy) / CALLS)
        matmuls.append(_milliseconds(matmul) / CALLS)
    return {
        "copy_gb_s": 2 * source.numel() / statistics.median(copies) / 1e6,
        "matmul_tflop_s": 2 * 8192**3 / statistics.median(matmuls) / 1e9,
    }


def _header() -> dict[str, Any]:
    """Return the hardware, the date, the commit and the versions of a report."""
    import importlib.metadata

    folder = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    try:
        versions["triton"] = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        versions["triton"] = "none"
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    today = datetime.date.today().isoformat()
    return {"hardware": hardware, "date": today, "commit": commit, "versions": versions}


def _line(row: dict[str, Any]) -> str:
    """Format the result of a row as one line."""
    line = f"{row['op']:20} {row['case']:44} {row['row']:24} "
    if "microseconds" in row:
        line += f"{row['microseconds']:10.1f} us"
        line += f" {row['tflop_s']:7.0f} TFLOP/s" if "tflop_s" in row else ""
        line += f" {row['gb_s']:7.0f} GB/s ({100 * row['share_of_copy']:.0f}% of copy)" if "gb_s" in row else ""
        line += f" {row['best_peer_over_ours']:6.2f} x the best baseline" if "best_peer_over_ours" in row else ""
    elif row["ok"]:
        line += f"ok, error {row['error']:.1e}"
    else:
        line += f"FAIL {row.get('failed') or 'error ' + format(row['error'], '.1e')}"
    return line
