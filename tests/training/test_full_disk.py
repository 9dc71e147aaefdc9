"""A disk that is full or read-only when a checkpoint is written leaves the one before, from which the run goes on.

sudo pytest -m slow tests/training/test_full_disk.py        # mounts a disk of 4 MiB in memory
"""

import contextlib
import shutil
import subprocess
import time

import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.training.loop import train
from reelm.training.state_folders import newest_state
from reelm.training.train_config import TrainConfig

pytestmark = pytest.mark.slow
OPTIONS = TrainConfig(steps=20, warmup=3, report_steps=20, checkpoint_minutes=1e-9)


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("needs the right to mount a disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk):
    """Leave a few bytes of a disk, and return how it is cured."""
    with contextlib.suppress(OSError), (disk / "other").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return (disk / "other").unlink


def make_read_only(disk):
    """Let nothing be written to a disk, and return how it is cured."""
    while subprocess.run(["mount", "-o", "remount,ro", disk], capture_output=True).returncode:
        time.sleep(0.01)  # a state is being written
    return lambda: subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


def make():
    torch.manual_seed(0)
    return torch.nn.Linear(200, 200)


def loss(model, step, share):
    x = torch.randn(8, 200, generator=torch.Generator().manual_seed(step))
    return (model(x) - x.flip(1)).square().mean(), {}


@pytest.mark.parametrize(
    ("harm", "error", "told"),
    [
        (fill, OSError, r"No space left on device: .*state-0000001[23]/state\."),
        (make_read_only, ReelmError, r"its folder must be writable, got .*state-0000001[23]"),
    ],
)
def test_the_checkpoint_before_is_whole(disk, tmp_path, harm, error, told):
    folder, kept, cures = disk / "run", [], []

    def harmed(model, step, share):
        if step == 12:
            kept.append(newest_state(folder).tensors(bool))
            cures.append(harm(disk))
        return loss(model, step, share)

    with pytest.raises(error, match=told):
        train(make(), harmed, OPTIONS, folder)
    torch.testing.assert_close(newest_state(folder).tensors(bool), kept[0], rtol=0, atol=0)
    cures[0]()
    train(make(), loss, OPTIONS, folder, resume=True)
    assert not [*folder.glob(".*")], "nothing is left half-written"
    train(make(), loss, OPTIONS, tmp_path / "whole")
    torch.testing.assert_close(
        *(newest_state(each).tensors(bool) for each in (folder, tmp_path / "whole")), rtol=0, atol=0
    )
    assert (folder / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
