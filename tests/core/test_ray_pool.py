"""Jobs on Ray: each has its result, whatever becomes of the processes. Slow: Ray itself takes seconds to start."""

import functools
import os
import signal

import pytest

from reelm.core import ray_pool
from reelm.core.errors import ReelmError
from reelm.core.pool import Died
from reelm.core.ray_pool import RayOptions, run_on_ray

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_on_this_machine")]


def make_worker(folder):
    """A worker that counts its calls in files, and ends as its jobs tell it."""
    if folder is None:
        raise ReelmError("worker: must have a folder")
    made = os.getpid()

    def work(job):
        with (folder / str(job["number"])).open("a") as file:
            file.write("x")
        calls = (folder / str(job["number"])).stat().st_size
        if calls <= job.get("ends", 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if "refused" in job:
            raise ReelmError(job["refused"])
        if "error" in job:
            raise job["error"]
        assert made == os.getpid()
        return {"number": job["number"], **({"odd": None} if job["number"] % 2 else {"even": [1]})}

    return work


def test_each_job_has_its_result_and_begins_again_where_its_process_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_pool, "MOST_JOBS", 9)
    jobs = [{"number": number} for number in range(12)]
    jobs[3]["ends"], jobs[7]["ends"] = 1, 99
    results = dict(run_on_ray(functools.partial(make_worker, tmp_path), jobs, RayOptions(workers=2)))
    assert sorted(results) == [*range(12)]
    assert isinstance(results.pop(7), Died) and (tmp_path / "7").read_text() == "x" * ray_pool.MOST_STARTS
    for number, result in results.items():
        assert result == {"number": number, **({"odd": None} if number % 2 else {"even": [1]})}
    calls = {number: len((tmp_path / str(number)).read_text()) for number in results}
    assert calls == {number: 2 if number == 3 else 1 for number in results}


def test_what_a_worker_refuses_is_raised_here(tmp_path):
    jobs = [{"number": 0, "refused": "clip: must be whole, got half of it"}]
    with pytest.raises(ReelmError, match="clip: must be whole"):
        dict(run_on_ray(functools.partial(make_worker, tmp_path), jobs, RayOptions()))
    with pytest.raises(ReelmError, match="worker: must have"):
        dict(run_on_ray(functools.partial(make_worker, None), jobs, RayOptions()))
    with pytest.raises(ReelmError, match="workers: must be from 1 to"):
        dict(run_on_ray(functools.partial(make_worker, tmp_path), jobs, RayOptions(workers=10_000)))
    with pytest.raises(ReelmError, match="workers: must be from 1 to 0, the GPUs of the cluster"):
        dict(run_on_ray(functools.partial(make_worker, tmp_path), jobs, RayOptions(), on_gpu=True))
    with pytest.raises(ReelmError, match="address: must not be given where this process is connected"):
        dict(run_on_ray(functools.partial(make_worker, tmp_path), jobs, RayOptions(address="10.0.0.1:6379")))
    assert dict(run_on_ray(functools.partial(make_worker, None), [], RayOptions())) == {}
    full = [{"number": 1, "error": OSError(28, "No space left on device", "shard")}]
    with pytest.raises(OSError, match="No space left on device: 'shard'"):
        dict(run_on_ray(functools.partial(make_worker, tmp_path), full, RayOptions()))
