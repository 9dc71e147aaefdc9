"""A training of two processes that is killed at random goes on to the weights of one that was not.

REELM_KILLS=100 REELM_STOPS=30 pytest -m slow tests/training/test_interruptions.py -s
"""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist

from reelm.core.checkpoint import load_tensors
from reelm.tests.training.test_ranks import train_as, write_data
from reelm.training.ranks import Ranks
from reelm.training.run_reports import RunProgress
from reelm.training.state_folders import newest_state

KILLS, STOPS = int(os.environ.get("REELM_KILLS", 10)), int(os.environ.get("REELM_STOPS", 5))
STEPS = 40
pytestmark = pytest.mark.slow


def work(rank, count, folder, meeting):
    """Train, as one of some processes, with a checkpoint every 50 ms."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    resume = newest_state(folder) is not None
    train_as(Ranks(rank, count), folder, resume=resume, steps=STEPS, shards=count, checkpoint_minutes=0.05 / 60)


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """A function that starts a training of so many processes; they are forked from one that has imported all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["reelm.tests.training.test_interruptions"])
    meetings = tmp_path_factory.mktemp("meetings")

    def start(folder, count):
        meeting = meetings / str(time.monotonic_ns())
        processes = [context.Process(target=work, args=(rank, count, folder, meeting)) for rank in range(count)]
        for process in processes:
            process.start()
        return processes

    return start


def end(processes, number=None):
    """Send a signal to all processes, if one is given, wait for their ends, and return their exit codes."""
    for process in processes:
        if number is not None and process.is_alive():
            os.kill(process.pid, number)
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def weights(folder):
    return load_tensors(folder / "lm.safetensors")


@pytest.mark.parametrize("counts", [(2,), (1, 2)], ids=["two processes", "one or two"])
def test_a_killed_training_goes_on(tmp_path, launch, counts):
    write_data(tmp_path)
    choose, kills, runs = random.Random(0), 0, 0
    assert end(launch(tmp_path / "whole", 2)) == [0, 0]
    while kills < KILLS:
        folder, codes = tmp_path / f"run-{runs}", [None]
        while codes != [0] * len(codes):
            processes = launch(folder, choose.choice(counts))
            time.sleep(choose.uniform(0.5, 4))
            codes = end(processes, signal.SIGKILL if kills < KILLS else None)
            kills += -signal.SIGKILL in codes
            assert set(codes) <= {0, -signal.SIGKILL}, codes
        runs += 1
        whole, other = weights(tmp_path / "whole"), weights(folder)
        for name, tensor in whole.items():
            if len(counts) == 1:
                assert torch.equal(tensor, other[name]), name
            else:
                assert torch.allclose(tensor, other[name], atol=2e-2), name
    print(f"\n{kills} kills in {runs} runs of {counts} processes")


def test_a_training_that_is_asked_to_stop_leaves_a_checkpoint_of_that_step(tmp_path, launch):
    write_data(tmp_path)
    choose, slowest = random.Random(0), 0.0
    for number in range(STOPS):
        folder = tmp_path / str(number)
        processes = launch(folder, 2)
        while not (folder / "metrics.jsonl").exists():
            time.sleep(0.01)
        time.sleep(choose.uniform(0, 1))
        asked = time.monotonic()
        os.kill(processes[choose.randrange(2)].pid, signal.SIGTERM)
        assert end(processes) == [0, 0]
        slowest = max(slowest, time.monotonic() - asked)
        made = len((folder / "metrics.jsonl").read_text().splitlines())
        assert RunProgress.read(folder).step == made
    print(f"\n{STOPS} stops: each with a checkpoint of its last step, the slowest after {slowest:.2f} s")
    assert slowest < 10


def test_torchrun_trains_by_the_same_command(debug_checkpoint, tmp_path):
    """Two processes print what one does, and leave a model; a third shard is refused."""
    reelm = [sys.executable, "-m", "reelm"]
    size = ["--clips", "8", "--num-frames", "9", "--height", "32", "--width", "48", "--seed", "1"]
    tokens, debug = str(tmp_path / "tokens"), str(debug_checkpoint)
    subprocess.run([*reelm, "render", "--tokenizer", debug, "--out", tokens, *size], check=True)
    words = ["train", "lm", "--data", tokens, "--tokenizer", debug, "--train.steps", "3", "--model.width", "16",
             "--model.depth", "1", "--model.heads", "2", "--model.kv-heads", "1", "--batch-tokens", "300"]  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "reelm"]

    def run(out, *more):
        command = [*torchrun, *words, "--out", str(tmp_path / out), *more]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    made = run("run", "--train.shards", "2")
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("of step 3 of 3") == 1 and (tmp_path / "run" / "model" / "config.json").exists()
    refused = run("refused", "--train.shards", "3")
    assert refused.returncode == 1 and "shards: must divide the number of processes, 2, got 3" in refused.stderr
    assert not (tmp_path / "refused").exists()
