"""Compare the speed of this build of reelm with another one on this machine, in turns, in one run.

    report = compare_builds("../reelm-of-last-month", seconds=2.0, repeats=7)
    print(report)                       # a list and a table; report["rows"], json.dumps(report)

Each build has a process of its own in its own environment, and both draw the same clips by turns, a call each. The one
that was second in a round is first in the next. Rates are medians over the rounds. A ratio is the median, and its
quartiles, over the rounds of this build's rate divided by the other one's in the same round, so that what slows the
machine for a while slows both. A first round warms up and is not counted.

The other build needs only the public call `reelm.VideoGenerator.from_pretrained(…).generate(…)`, or `reelm train`.
"""

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..core.checkpoint import find_checkpoint
from ..core.device import pick_device
from ..core.errors import ReelmError, require
from ..core.files import as_path
from ..core.progress import progress
from ..generation.pretrained import read_config
from ..generation.request import check_lengths
from .machine import machine_name
from .table import list_lines, table_lines
from .turns import ratios_of

COLUMNS = (
    *("row", "unit", "rate", "against_rate", "ratio", "ratio_low", "ratio_high", "same_rounds"),
    *("peak_memory_mib", "against_peak_memory_mib"),
)
LOSSES = ("loss", "against_loss")
STEPS = 6  # of a training in a round
PROMPT = "a red ball rolls to the right over grass"
PYTHONS = (".venv/bin/python", ".venv/Scripts/python.exe", "bin/python", "Scripts/python.exe")
# What runs in each environment: a line with what it is, then for each line of stdin (a job) a line with its figures.
WORKER = """
import hashlib, importlib.metadata, json, os, pathlib, platform, subprocess, sys, tempfile, time

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print

import numpy, reelm, torch

folder = pathlib.Path(reelm.__file__).resolve().parent
git = subprocess.run(["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
                     capture_output=True, text=True) if (folder / ".git").exists() else None
libraries = ("numpy", "openvino", "onnxruntime", "triton", "av")
found = {name: [each.version for each in importlib.metadata.distributions(name=name)] for name in libraries}
print(json.dumps({
    "folder": str(folder), "reelm": reelm.__version__, "commit": git and git.stdout.strip() or None,
    "python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads(),
    **{name: versions[0] for name, versions in found.items() if versions},
}), file=answers, flush=True)

def peak_memory():
    status = pathlib.Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource  # on Linux its figure would include the process that has started this one
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def train(job, steps):
    from reelm.cli import main

    with tempfile.TemporaryDirectory() as folder:
        own = ["--out", folder + "/run", "--train.steps", str(steps), "--train.report-steps", "1"]
        start = time.perf_counter()
        if main(["train", *job["training"], *own]) != 0:
            sys.exit("the training failed")
        seconds, last = time.perf_counter() - start, pathlib.Path(folder, "run", "metrics.jsonl")
        return seconds, json.loads(last.read_text().splitlines()[-1])["loss"]

generator, loss = None, None
for line in sys.stdin:
    job = json.loads(line)
    digest = hashlib.sha256()
    if "training" in job:
        os.chdir(job["folder"])
        amount, (whole, loss) = job["steps"], train(job, 1 + job["steps"])
        seconds = whole - train(job, 1)[0]  # what a training takes besides its steps is in both
        digest.update(str(loss).encode())
    elif "clip" in job:
        start = time.perf_counter()
        clip = reelm.Video.load(job["clip"])
        seconds, amount = time.perf_counter() - start, len(clip.frames)
        digest.update(numpy.ascontiguousarray(clip.frames))
    else:
        if generator is None:
            generator = reelm.VideoGenerator.from_pretrained(job["model"], device=job["device"])
        start = time.perf_counter()
        clips = generator.generate(job["prompt"], **job["options"])
        seconds, amount = time.perf_counter() - start, 0
        for clip in clips if isinstance(clips, list) else [clips]:
            amount += clip.tokens.size
            digest.update(numpy.ascontiguousarray(clip.tokens, dtype="int64"))
    figures = {"rate": amount / seconds, "peak": peak_memory(), "digest": digest.hexdigest(), "loss": loss}
    print(json.dumps(figures), file=answers, flush=True)
"""


class BuildsReport(dict[str, Any]):
    """Figures by name, with one dictionary per kind of call under "rows"; printed as a list and a table."""

    def __str__(self) -> str:
        values = {name: value for name, value in self.items() if name != "rows"}
        columns = [*COLUMNS, *(name for name in LOSSES if name in self["rows"][0])]
        return "\n".join([*list_lines(values), "", *table_lines(columns, self["rows"])])


def compare_builds(
    against: str | Path,
    *,
    model: str = "world",
    seconds: float = 2.0,
    batch: int | None = None,
    prompt: str = "",
    clip: Path | None = None,
    training: str | None = None,
    threads: int = 1,
    repeats: int = 3,
    device: str = "auto",
    check: bool = False,
) -> BuildsReport:
    """Draw clips with this build and with another one, in turns: by default, by `sequential`, and a batch by default.

    Args:
        against: The other build: the folder of a checkout, or a Python interpreter or the folder of a virtual
            environment in which reelm is installed. A checkout without a `.venv` of its own runs in this environment.
        model: The model, which each build looks up by itself: a bundled name, a folder or a hub id.
        seconds: The length of a clip in seconds.
        batch: The number of clips of the batch, 8 by default.
        prompt: The prompt of all clips; by default one that the model `world` knows.
        clip: A clip file, whose reading is compared in place of all sampling.
        training: The words after `reelm train` of a training without its `--out`, such as "tokenizer", whose steps are
            compared in place of all sampling. Each round times a training of 7 steps and one of a single step, whose
            time is subtracted.
        threads: The number of threads that each build computes on.
        repeats: The number of measured rounds.
        device: The device to compute on: auto, cpu or cuda[:n].
        check: Whether to run one round without a warm-up and clips of one frame, which tests whether everything runs.

    Returns:
        A row for each kind of call: `rate` is the tokens (of a clip that is read, the frames) in a second of the whole
        call, pixels included; `same_rounds` the number of rounds in which both have made the same tokens (or frames).
        Of a training, `rate` is its steps in a second, `loss` and `against_loss` those of the last step, and
        `same_rounds` counts equal losses. The peak memory is that of the process so far; the first row is of one clip.

    Raises:
        ReelmError: An argument is out of its range, `against` has no reelm, or a build cannot run a call.
    """
    numbers = {"batch": 8 if batch is None else batch, "threads": threads, "repeats": repeats}
    for name, number in numbers.items():
        require(type(number) is int and number >= 1, name, "must be a whole number from 1 on", number)
    target = pick_device(device)
    command, package = _find_build(against)
    if check:
        seconds, repeats, numbers["batch"] = 0.1, 1, 2
    require(clip is None or training is None, "training", "must not be given with a clip", training)
    jobs: dict[str, dict[str, Any]]
    if training is not None:
        words = _words(training)
        report = BuildsReport(training=training)
        jobs = {f"train {words[0]}": {"training": words, "steps": 1 if check else STEPS, "folder": os.getcwd()}}
    elif clip is not None:
        require(as_path(clip, "clip").exists(), "clip", "must be a file that exists", str(clip))
        report, jobs = BuildsReport(clip=str(clip)), {"reading": {"clip": str(Path(clip).absolute())}}
    else:
        report = BuildsReport(model=str(model), seconds=seconds, batch=numbers["batch"])
        jobs = _jobs(model, seconds, numbers["batch"], prompt or PROMPT, device)
    here = Path(__file__).resolve().parents[1]
    with _Build(command, package, threads, "against") as other, _Build(sys.executable, here, threads, "reelm") as own:
        rows = [_row(name, job, own, other, repeats, warm_up=not check) for name, job in jobs.items()]
    report.update(
        repeats=repeats, threads=threads, device=machine_name(target), this=own.versions, against=other.versions,
        rows=rows,
    )  # fmt: skip
    return report


def _words(training: str) -> list[str]:
    """Return the words of the arguments of a training."""
    try:
        words = shlex.split(training)
    except ValueError:  # an open quotation
        words = []
    rule = 'must be the words after `reelm train`, such as "tokenizer"'
    require(bool(words) and words[0] in ("tokenizer", "lm"), "training", rule, training)
    own = [word for word in words if word.split("=")[0] in ("--out", "--train.steps", "--train.report-steps")]
    require(not own, "training", "must be without options that the comparison sets", " ".join(own))
    return words


def _jobs(model: str | Path, seconds: float, batch: int, prompt: str, device: str) -> dict[str, dict[str, Any]]:
    """Return the calls by name, which any build can run; one that this build refuses is refused here."""
    folder = find_checkpoint(model)
    check_lengths(read_config(folder), seconds, None)
    # The processes have another working directory; a bundled model is that of each build.
    name = str(folder.absolute()) if folder == Path(model) else str(model)
    common, one = {"model": name, "device": device}, {"seconds": seconds}
    return {
        "default": {**common, "prompt": prompt, "options": one},
        "sequential": {**common, "prompt": prompt, "options": {**one, "decoder": "sequential"}},
        f"batch of {batch}": {**common, "prompt": [prompt] * batch, "options": one},
    }


def _find_build(against: str | Path) -> tuple[str, Path | None]:
    """Return the interpreter of a build, and its package where that is not the one installed there."""
    path = as_path(against, "against").absolute()  # not resolved: a link to an interpreter names an environment
    python = next((path / name for name in PYTHONS if (path / name).is_file()), None)
    if _is_checkout(path):
        return str(python or sys.executable), path
    interpreter = path if python is None else python
    require(
        interpreter.is_file() and os.access(interpreter, os.X_OK), "against",
        "must be the folder of a checkout of reelm, or a Python interpreter (or virtual environment) that has reelm",
        str(against),
    )  # fmt: skip
    return str(interpreter), None


def _is_checkout(path: Path) -> bool:
    project = path / "pyproject.toml"
    if not (project.is_file() and (path / "__init__.py").is_file()):
        return False
    try:
        return tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("name") == "reelm"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return False


class _Build:
    """A process that draws clips with one build, from the start of a `with` block to its end.

    Args:
        python: The interpreter.
        package: The folder that is imported as reelm; None for what is installed.
        threads: The number of threads.
        argument: What messages call this build.
    """

    def __init__(self, python: str, package: Path | None, threads: int, argument: str) -> None:
        self._python, self._package, self._threads, self._argument = python, package, threads, argument
        self.versions: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["OMP_NUM_THREADS"] = str(self._threads)
        if self._package is not None:  # comes before what is installed
            (Path(self._folder.name) / "reelm").symlink_to(self._package)
            environment["PYTHONPATH"] = self._folder.name
        self._stderr = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [self._python, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr,
            text=True, cwd=self._folder.name, env=environment,
        )  # fmt: skip
        try:
            self.versions = self._read("must have reelm")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()  # it writes no files, and may be in the middle of a long clip
        self._process.communicate()
        self._stderr.close()
        self._folder.cleanup()

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run a job, and return its rate, the peak memory in bytes, and a digest of what was made."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and `_read` says why
        return self._read("must run the same call")

    def _read(self, rule: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            figures = json.loads(line)
        except json.JSONDecodeError:
            figures = None
        if isinstance(figures, dict):
            return figures
        self._process.kill()
        self._process.wait()
        self._stderr.seek(0)
        lines = [text for text in self._stderr.read().decode(errors="replace").splitlines() if text.strip()]
        raise ReelmError(f"{self._argument}: {rule}, got {line.strip() or (lines or ['nothing'])[-1]!r}")


def _row(name: str, job: dict[str, Any], own: _Build, other: _Build, repeats: int, *, warm_up: bool) -> dict[str, Any]:
    """Run a job with both builds in turns, and return the figures of its row."""
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for number in progress(range(repeats + warm_up), name, unit="round"):
        if "options" in job:
            clips = len(job["prompt"]) if isinstance(job["prompt"], list) else 1
            seeds = [number * clips + clip for clip in range(clips)]
            job["options"]["seed"] = seeds if isinstance(job["prompt"], list) else seeds[0]
        for build in (own, other) if number % 2 else (other, own):
            (ours if build is own else theirs).append(build.run(job))
    ours, theirs = ours[int(warm_up) :], theirs[int(warm_up) :]
    rates = [[figures["rate"] for figures in rounds] for rounds in (ours, theirs)]
    losses = {} if "training" not in job else {"loss": ours[-1]["loss"], "against_loss": theirs[-1]["loss"]}
    return {
        "row": name,
        "unit": "steps/s" if losses else "tokens/s" if "options" in job else "frames/s",
        "rate": statistics.median(rates[0]),
        "against_rate": statistics.median(rates[1]),
        **ratios_of(*rates),
        "same_rounds": sum(mine["digest"] == other["digest"] for mine, other in zip(ours, theirs, strict=True)),
        "peak_memory_mib": ours[-1]["peak"] / 2**20,
        "against_peak_memory_mib": theirs[-1]["peak"] / 2**20,
        **losses,
    }
