"""A process pool that yields results in order and survives jobs that kill their process.

A video decoder may crash the whole process on a broken file; then only the job of that file is lost.

with contextlib.closing(run_all(work, jobs, workers=4)) as results:
    for result in results:        # work(job) for each job, or DIED where the job killed its process
        ...
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from .errors import require
from .signals import deferred_signals

Job = TypeVar("Job")
Result = TypeVar("Result")


class Died:
    """The result of a job that killed its process."""


DIED = Died()


def run_all(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Generator[Result | Died, None, None]:
    """Yield `work(job)` for each job in order, or `DIED` for a job that killed its process.

    An exception of `work` is raised here.

    Args:
        work: A function at the top level of a module, so that other processes can import it.
        jobs: The arguments of the calls; they must be picklable.
        workers: The number of processes; with 0 the jobs run in this process, and one that kills it is not survived.

    Raises:
        ReelmError: No process can start, as where a script without `if __name__ == "__main__":` calls this: each
            process imports the script.
    """
    if workers == 0:
        yield from map(work, jobs)
        return
    done = 0
    while done < len(jobs):
        try:
            for result in _run_in_pool(work, jobs[done:], workers):
                yield result
                done += 1
        except BrokenProcessPool:
            rule = 'must be 0 where no process can start; a script needs `if __name__ == "__main__":`'
            require(done > 0 or _can_start(), "workers", rule, workers)
            # Any job without a result may have done it. Run the first of them alone; the others start again.
            try:
                yield from _run_in_pool(work, jobs[done : done + 1], 1)
            except BrokenProcessPool:
                yield DIED
            done += 1


def _can_start() -> bool:
    try:
        return list(_run_in_pool(bool, [0], 1)) == [False]
    except BrokenProcessPool:
        return False


def _run_in_pool(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Generator[Result, None, None]:
    # Do not fork this process: a copy would lack its threads, and could wait for ever for a lock that one of them held.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([work.__module__])
        from multiprocessing import forkserver, resource_tracker  # which Windows does not have

        # Its start, which is part of that of the fork server, would let SIGINT through again.
        resource_tracker.ensure_running()
        with _without_ctrl_c():
            forkserver.ensure_running()
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_start_worker)
    others = set(multiprocessing.active_children())
    try:
        # It starts the workers. A signal in the middle of that would leave one that is not among the children yet.
        with deferred_signals():
            results = pool.map(work, jobs)
        yield from results
    except BaseException:
        # A worker may be in the middle of a long video whose result is no longer needed.
        for worker in set(multiprocessing.active_children()) - others:
            worker.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Hold SIGINT back in this context, and for ever in processes that it starts, which inherit the mask.

    Ctrl-C goes to all processes of a terminal, and is left to the parent, which then kills its workers. The fork server
    ignores it only once it has imported what its workers need, and would print a traceback until then.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    # Where processes are spawned, Ctrl-C is left to the parent too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this process when its parent has ended: a killed run must not leave workers that write files."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
