"""Jobs over processes: in order, past a crash, and gone when nobody waits any more."""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reelm.core.errors import ClipError
from reelm.core.pool import DIED, run_all


def work(job):
    if job == "crash":
        os._exit(9)
    if job == "raise":
        raise ClipError("clip: must be whole, got half")
    if job == "sleep":
        time.sleep(60)
    return job, os.getpid()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_order(workers):
    results = list(run_all(work, list(range(20)), workers))
    assert [result for result, _ in results] == list(range(20))
    assert (os.getpid() in {process for _, process in results}) == (workers == 0)
    assert list(run_all(work, [], workers)) == []


def test_a_job_that_kills_its_process_is_the_only_one_lost():
    jobs = [1, 2, "crash", 3, 4, 5, "crash"]
    results = [result if result is DIED else result[0] for result in run_all(work, jobs, 2)]
    assert results == [1, 2, DIED, 3, 4, 5, DIED]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_job_raises_comes_out(workers):
    results = run_all(work, [1, "raise", 2], workers)
    assert next(results)[0] == 1
    with pytest.raises(ClipError, match="must be whole"):
        next(results)


def test_nobody_waits_for_jobs_that_nobody_wants():
    begin = time.monotonic()
    with contextlib.closing(run_all(work, [1, "sleep", "sleep"], 2)) as results:
        assert next(results)[0] == 1
    assert time.monotonic() - begin < 30
    assert not multiprocessing.active_children()


PARENT = """
import multiprocessing, threading, time
from reelm.core.pool import run_all

def tell():
    while len(multiprocessing.active_children()) < 2:
        time.sleep(0.01)
    time.sleep(0.5)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)

threading.Thread(target=tell, daemon=True).start()
list(run_all(time.sleep, [600, 600, 600], 2))
"""


def _runs(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")  # one that has ended may wait for its parent's notice
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_workers_end_when_their_parent_is_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(word) for word in parent.stdout.readline().split()]
        assert len(workers) == 2 and all(_runs(worker) for worker in workers)
        parent.kill()
    deadline = time.monotonic() + 30
    while any(_runs(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_runs(worker) for worker in workers)


def test_a_script_that_its_processes_cannot_import_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from reelm.core.pool import run_all\nprint(list(run_all(abs, [1, -2], 2)))\n")
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and not ran.stdout
    assert "ReelmError: workers: must be 0 where no process can start; a script needs" in ran.stderr.splitlines()[-1]
