"""Work on the processes of Ray, on this machine or on a cluster (Moritz et al. 2018, arXiv 1712.05889).

    for number, result in run_on_ray(functools.partial(load_worker, "world"), jobs, RayOptions()):
        ...        # the result of jobs[number], or DIED

Each process makes its worker once, here by `load_worker("world")`, and calls it with one job after another. A job whose
process ends, by itself or because its machine is lost, is begun again in another one; it is `DIED` when `MOST_STARTS`
have ended. All machines need this package, and see the same files under the same paths.
"""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .errors import INSTALL, ReelmError, require
from .pool import DIED, Died

if TYPE_CHECKING:
    import numpy as np

Job = TypeVar("Job")
Result = TypeVar("Result")
MOST_STARTS = 3  # of a job
MOST_JOBS = 10_000  # at a time: Ray keeps each by itself, so that a job that ends its process takes no others along
PATIENCE = 60  # seconds in which a network disk may show a file that another machine has written
Refusals = (ReelmError, OSError)  # what a worker raises that is not a fault of the code


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Where Ray works.

    Attributes:
        address: The address of the cluster, such as "10.0.0.1:6379". Unless given, it is that of RAY_ADDRESS, or Ray is
            started on this machine; a process that is connected to Ray already stays so.
        workers: The number of processes; one for each CPU unless given, or for each GPU where the work is done there.
    """

    address: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        require(self.workers is None or self.workers >= 1, "workers", "must be at least 1", self.workers)


def run_on_ray(
    make: Callable[[], Callable[[Job], Result]], jobs: Sequence[Job], options: RayOptions, *, on_gpu: bool = False
) -> Generator[tuple[int, Result | Died], None, None]:
    """Yield the number and the result of each job as it is complete, in any order.

    Args:
        make: A function, which can be pickled, that makes the worker of a process: a function of a job.
        jobs: The jobs, which can be pickled.
        options: Where the work is done.
        on_gpu: Whether each process needs a GPU.

    Raises:
        ReelmError: Ray is not installed or cannot be reached, there are no CPUs or GPUs for the processes, or a worker
            has raised it.
        OSError: A worker has raised it.
    """
    if not jobs:
        return
    with _connected(options):
        import ray

        kind = "GPU" if on_gpu else "CPU"
        most = int(ray.cluster_resources().get(kind, 0))
        rule = f"must be from 1 to {most}, the {kind}s of the cluster"
        require(1 <= (options.workers or most) <= most, "workers", rule, options.workers)
        for first in range(0, len(jobs), MOST_JOBS):
            some = jobs[first : first + MOST_JOBS]
            for number, result in _run(make, some, min(len(some), options.workers or most), on_gpu=on_gpu):
                yield first + number, result


def _run(
    make: Callable[[], Callable[[Job], Result]], jobs: Sequence[Job], workers: int, *, on_gpu: bool
) -> Iterator[tuple[int, Result | Died]]:
    import ray
    from ray.data import ActorPoolStrategy, DataContext, from_items

    # It may be lost with its machine, and its counts then, but not the work.
    starts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Starts).remote()
    context, done = DataContext.get_current().copy(), 0
    context.enable_progress_bars, context.max_errored_blocks = False, 0
    try:
        with DataContext.current(context):
            rows = [{"number": number, "job": _Value(job)} for number, job in enumerate(jobs)]
            found = from_items(rows, override_num_blocks=len(rows)).map_batches(
                _Process, fn_constructor_args=(make, starts), batch_size=1, num_cpus=1, num_gpus=int(on_gpu),
                compute=ActorPoolStrategy(size=workers),
            )  # fmt: skip
            for row in found.iter_rows():
                result = row["result"].value
                if isinstance(result, Refusals):
                    raise result
                done += 1
                yield int(row["number"]), result
    finally:
        ray.kill(starts)
    require(done == len(jobs), "engine", f"must give the results of {len(jobs)} jobs", done)


def made_file(path: Path, result: Result | Died) -> Result:
    """Return the result of a job that writes a file.

    Raises:
        ReelmError: The job has ended its processes, or this process does not see the file.
    """
    if isinstance(result, Died):
        raise ReelmError(f"{path.name}: must not end the process that makes it, as it did {MOST_STARTS} times")
    ends = time.monotonic() + PATIENCE
    while not path.is_file() and time.monotonic() < ends:
        os.listdir(path.parent)  # a network disk looks for new files then
        time.sleep(0.5)
    require(path.is_file(), "out", "must be a folder that all machines of the cluster share", str(path.parent))
    return result


@contextlib.contextmanager
def _connected(options: RayOptions) -> Iterator[None]:
    """Connect to Ray, unless this process is connected already; it reports to nobody, and tells faults alone."""
    # A Ray that was started for one process leaves this file, and `ray start` protects a cluster with it then; but
    # `ray.init` does not send it by itself (findings/ray-token.sh). This is read when Ray is imported.
    if (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ReelmError(f"engine: must be installed to be ray: {INSTALL.format('ray')}") from error
    if ray.is_initialized():
        rule = "must not be given where this process is connected to Ray already"
        require(options.address is None, "address", rule, options.address)
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in ("ray", "ray.data")}
    try:
        _connect(options.address or os.environ.get("RAY_ADDRESS") or "local")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        ray.shutdown()
        for logger, level in loggers.items():
            logger.setLevel(level)


def _connect(address: str) -> None:
    import ray

    host, _, port = address.rpartition(":")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if host and port.isdecimal() and "/" not in host:
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray would try for minutes
        ray.init(address, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())
        raise ReelmError(f"address: must be that of a Ray cluster, got {address!r} ({told})") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own in this place


@dataclass(frozen=True)
class _Value(Generic[Job]):
    """A value that is pickled as it is: Ray would make columns of dictionaries, and add the names that others have."""

    value: Job


class _Starts:
    """Counts how often each job was begun, in a process of its own."""

    def __init__(self) -> None:
        self._counts = dict[int, int]()

    def count(self, number: int) -> int:
        """Count one more, and return how many there are."""
        self._counts[number] = self._counts.get(number, 0) + 1
        return self._counts[number]


class _Process:
    """What a process of Ray does; it makes its worker when it starts, and keeps it."""

    def __init__(self, make: Callable[[], Callable[[Job], Result]], starts: Any) -> None:
        self._starts = starts
        self._error: Exception | None = None
        try:
            self._work = make()
        except Refusals as error:
            self._error = error

    def __call__(self, batch: "dict[str, np.ndarray]") -> dict[str, list[object]]:
        """Return the result of the one job of a batch, or the error that it is refused with."""
        import ray

        (number,), (job,) = batch["number"], batch["job"]
        result: object = self._error
        if ray.get(self._starts.count.remote(int(number))) > MOST_STARTS:
            result = DIED
        elif self._error is None:
            try:
                result = self._work(job.value)
            except Refusals as error:
                result = error
        return {"number": [int(number)], "result": [_Value(result)]}
