"""Jobs over processes, in order, that outlive a process killed by its job: a decoder may crash on a broken file.

with contextlib.closing(run_all(work, jobs, workers=4)) as results:
    for result in results:        # work(job) for each job, or DIED where the process did not survive it
        ...
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any


class _Died:
    """The result of a job that killed its process."""


DIED = _Died()


def run_all(work: Callable[[Any], Any], jobs: Sequence[Any], workers: int) -> Generator[Any, None, None]:
    """Yield `work(job)` for each job, in order.

    Args:
        work: a function at the top of a module, as other processes must find it. What it raises comes out here.
        jobs: what can be pickled.
        workers: processes; 0 works in this one, and a job that kills it kills it.
    """
    if workers == 0:
        yield from map(work, jobs)
        return
    done = 0
    while done < len(jobs):
        try:
            for result in _pooled(work, jobs[done:], workers):
                yield result
                done += 1
        except BrokenProcessPool:
            # Nobody knows which job it was. The first one without a result goes on alone; the others start again.
            try:
                yield from _pooled(work, jobs[done : done + 1], 1)
            except BrokenProcessPool:
                yield DIED
            done += 1


def _pooled(work: Callable[[Any], Any], jobs: Sequence[Any], workers: int) -> Generator[Any, None, None]:
    # A fresh process for each pool, not a copy of this one, whose threads a fork would lose.
    kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(kind)
    if kind == "forkserver":
        context.set_forkserver_preload([work.__module__])
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_begin)
    others = set(multiprocessing.active_children())
    try:
        yield from pool.map(work, jobs)
    except BaseException:
        # A worker may be in the middle of a long film, which nobody waits for any more.
        for worker in set(multiprocessing.active_children()) - others:
            worker.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    # Ctrl-C is for the parent alone, which then ends its workers without a word from each.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent is gone: a killed run must not leave workers that write."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
