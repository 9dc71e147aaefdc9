"""A disk that is full or read-only when a checkpoint is written leaves the one before, from which the run goes on.

sudo pytest -m slow tests/training/test_full_disk.py        # mounts a disk of 4 MiB in memory
"""

import contextlib
import shutil
import subprocess

import pytest
import torch

from reelm.core.checkpoint import load_tensors
from reelm.core.errors import ReelmError
from reelm.training.loop import train
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
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
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
        (fill, OSError, r"No space left on device: .*state\.safetensors"),
        (make_read_only, ReelmError, r"its folder must be writable, got .*state\.safetensors"),
    ],
)
def test_the_checkpoint_before_is_whole(disk, tmp_path, harm, error, told):
    folder, kept, cures = disk / "run", [], []

    def harmed(model, step, share):
        if step == 12:
            kept.append((folder / "state.safetensors").read_bytes())
            cures.append(harm(disk))
        return loss(model, step, share)

    with pytest.raises(error, match=told):
        train(make(), harmed, OPTIONS, folder)
    assert (folder / "state.safetensors").read_bytes() == kept[0]
    cures[0]()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [], "nothing is left half-written"
    train(make(), loss, OPTIONS, folder, resume=True)
    train(make(), loss, OPTIONS, tmp_path / "whole")
    ours, whole = (load_tensors(each / "state.safetensors") for each in (folder, tmp_path / "whole"))
    assert all(torch.equal(tensor, ours[name]) for name, tensor in whole.items())
    assert (folder / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
