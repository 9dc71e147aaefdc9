"""A server that is killed at random loses no job, and draws none twice to two results.

REELM_KILLS=100 REELM_JOBS=1000 pytest -m slow tests/serving/test_kills.py
"""

import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from reelm.generation.video import Video
from reelm.serving.client import Client

KILLS, JOBS = int(os.environ.get("REELM_KILLS", 10)), int(os.environ.get("REELM_JOBS", 60))
SCRIPT = "from reelm.cli import script; script()"
OPTIONS = {"num_frames": 41, "guidance_scale": 1.0}


def start(debug_checkpoint, folder):
    command = [sys.executable, "-c", SCRIPT, "serve", "--model", str(debug_checkpoint), "--port", "0",
               "--out", str(folder), "--device", "cpu"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert "http://" in line, line
    return process, Client(line[line.index("http://") :].split(",")[0].split()[0])


@pytest.mark.slow
def test_no_job_is_lost_or_drawn_twice(debug_checkpoint, debug_generator, tmp_path):
    choose, folder, ids = random.Random(0), tmp_path / "clips", {}
    process, client = start(debug_checkpoint, folder)
    for kill in range(KILLS):
        want = (kill + 1) * JOBS // KILLS
        deadline = time.monotonic() + choose.uniform(0.1, 1.5)
        while time.monotonic() < deadline or len(ids) < want:
            if len(ids) < want and client.metric("reelm_jobs_running") < 40:
                seed = len(ids)
                ids[seed] = client.create("a red ball", seed=seed, **OPTIONS)["id"]
            else:
                time.sleep(0.01)
        process.kill()
        process.communicate()
        process, client = start(debug_checkpoint, folder)
    found = {seed: client.wait(identity) for seed, identity in ids.items()}
    assert len(found) == JOBS and all(job["status"] == "completed" for job in found.values())
    assert len(set(ids.values())) == len(ids) == len(client.list_all())
    wanted = {}
    for seed, identity in ids.items():
        wanted[seed] = debug_generator.generate("a red ball", seed=seed, **OPTIONS).tokens
        assert np.array_equal(Video.load(folder / identity / "clip.mp4").tokens, wanted[seed])
    process.terminate()
    assert process.communicate(timeout=30)[0] == "stopped\n" and process.returncode == 143
    print(f"\n{KILLS} kills, {len(ids)} jobs: 0 lost, 0 twice, all with the tokens of generate")
