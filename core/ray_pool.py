"""Work on the processes of Ray, on this machine or on a cluster (Moritz et al. 2018, arXiv 1712.05889).

    for number, result in run_on_ray(functools.partial(load_worker, "world"), jobs, RayOptions()):
        ...        # the result of jobs[number], or DIED

Each process makes its worker once, here by `load_worker("world")`, and calls it with one job after another. A job whose
process ends, by itself or because its machine is lost, is begun again in another one; it is `DIED` when `MOST_STARTS`
have ended. All machines need this package, and see the same files under the same paths.
"""

import logging
import os
from collections.abc import Callable, Generator, Sequence
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
MOST_BLOCKS = 10_000  # parts of the jobs, each of which Ray keeps by itself; results come when one is complete


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Where Ray works.

    Attributes:
        address: The address of the cluster, such as "10.0.0.1:6379". Unless given, it is that of RAY_ADDRESS, or Ray is
            started on this machine.
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
    """
    if not jobs:
        return
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ReelmError(f"engine: must be installed to be ray: {INSTALL.format('ray')}") from error
    known = ray.is_initialized()  # then it is the caller's, who ends it
    if not known:
        _connect(options)
    try:
        kind = "GPU" if on_gpu else "CPU"
        most = int(ray.cluster_resources().get(kind, 0))
        rule = f"must be from 1 to {most}, the {kind}s of the cluster"
        require(1 <= (options.workers or most) <= most, "workers", rule, options.workers)
        starts = ray.remote(num_cpus=0)(_Starts).remote()
        rows = [{"number": number, "job": _Value(job)} for number, job in enumerate(jobs)]
        found = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS)).map_batches(
            _Process, fn_constructor_args=(make, starts), batch_size=1, num_cpus=1, num_gpus=int(on_gpu),
            compute=ray.data.ActorPoolStrategy(size=min(len(jobs), options.workers or most)),
        )  # fmt: skip
        for row in found.iter_rows():
            result = row["result"].value
            if isinstance(result, ReelmError):
                raise result
            yield int(row["number"]), result
    finally:
        if not known:
            ray.shutdown()


def made_file(path: Path, result: Result | Died) -> Result:
    """Return the result of a job that writes a file.

    Raises:
        ReelmError: The job has ended its processes, or this process does not see the file.
    """
    if isinstance(result, Died):
        raise ReelmError(f"{path.name}: must not end the process that makes it, as it did {MOST_STARTS} times")
    require(path.is_file(), "out", "must be a folder that all machines of the cluster share", str(path.parent))
    return result


def _connect(options: RayOptions) -> None:
    """Start Ray, or join a cluster; it reports to nobody, and tells what has gone wrong alone."""
    import ray
    from ray.data import DataContext

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(options.address, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())
        raise ReelmError(f"address: must be that of a Ray cluster, got {options.address!r} ({told})") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    DataContext.get_current().enable_progress_bars = False


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
        self._starts, self._error = starts, None
        try:
            self._work = make()
        except ReelmError as error:
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
            except ReelmError as error:
                result = error
        return {"number": [int(number)], "result": [_Value(result)]}
