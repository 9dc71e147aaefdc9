"""Tensors are read from torch's archives as torch reads them, and nothing in the archives runs."""

import pickle
import random
import zipfile

import pytest
import torch
from torch import nn

from reelm.core.errors import CheckpointError
from reelm.core.torch_archive import TorchArchive


def test_containers_that_hold_each_other_are_looked_into_once(tmp_path):
    inner = {"weight": torch.ones(2)}
    for _ in range(60):  # 2^60 names
        inner = {"a": inner, "b": inner}
    inner["itself"] = inner
    torch.save(inner, tmp_path / "model.pt")
    with TorchArchive(tmp_path / "model.pt") as archive:
        assert archive.names == [".".join("a" * 60) + ".weight"]


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 5)
        self.register_buffer("table", torch.arange(6, dtype=torch.int32).view(2, 3), persistent=False)
        self.sizes, self.rates, self.on = [1, 2], [0.5, 0.25], True

    def forward(self, x):
        return self.linear(x) + self.table.sum()


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.ModuleDict({"a": Inner(), "b": nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(1, 4)).half()})


def test_a_state_dict_is_read(network, tmp_path):
    shared = torch.arange(24.0).view(4, 6)
    values = {
        "model": network.state_dict(), "part": shared[1:3, ::2], "turned": shared.T, "empty": torch.empty(0, 4),
        "brain": torch.randn(5).bfloat16(), "steps": 7, "scalar": torch.tensor(3),
    }  # fmt: skip
    torch.save(values, tmp_path / "model.pt")
    wanted = {f"model.{name}": tensor for name, tensor in values.pop("model").items()}
    wanted |= {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
    with TorchArchive(tmp_path / "model.pt") as archive:
        assert set(archive.names) == set(wanted)
        for name, tensor in wanted.items():
            assert torch.equal(archive.tensor(name), tensor) and archive.tensor(name).dtype == tensor.dtype


@pytest.mark.parametrize("how", ["script", "trace"])
def test_an_archive_of_torchscript_is_read(tmp_path, how):
    torch.manual_seed(0)
    network = nn.Sequential(Inner(), nn.Linear(5, 2)).eval()
    make = {"script": lambda: torch.jit.script(network), "trace": lambda: torch.jit.trace(network, torch.ones(1, 3))}
    make[how]().save(str(tmp_path / "net.jit"))
    with TorchArchive(tmp_path / "net.jit") as archive:
        found = {name: archive.tensor(name) for name in archive.names}
    assert torch.equal(found.pop("0.table"), network[0].table)
    assert found.keys() == network.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in network.state_dict().items())


CALLS = []


class Harmless:
    """What it is pickled as calls a function that only counts."""

    def __reduce__(self):
        return count, (1,)


def count(value):
    CALLS.append(value)
    return {}


def test_what_is_no_tensor_is_refused_and_not_called(tmp_path):
    torch.save({"weight": torch.ones(2), "other": Harmless()}, tmp_path / "model.pt")
    with pytest.raises(
        CheckpointError, match=r"model.pt: must hold tensors, and nothing that runs: .*count is no part"
    ):
        TorchArchive(tmp_path / "model.pt")
    assert CALLS == []


def rewritten(path, target, change, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in old.infolist():
            data = change(entry.filename, old.read(entry))
            if data is not None:
                new.writestr(entry.filename, data)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda name, data: data if "/data/" not in name else None, "weight must be whole"),
        (lambda name, data: data if "/data/" not in name else data[:-4], "weight must have 24 bytes, got 20"),
        (lambda name, data: data if "data.pkl" not in name else None, "must have one list of its tensors"),
        (lambda name, data: data if "data.pkl" not in name else data[:-9], "must hold tensors"),
        (lambda name, data: data if "data.pkl" not in name else pickle.dumps([1]), None),
    ],
)
def test_a_damaged_archive_is_refused(tmp_path, change, rule):
    torch.save({"weight": torch.ones(6)}, tmp_path / "model.pt")
    rewritten(tmp_path / "model.pt", tmp_path / "bad.pt", change)
    if rule is None:
        with TorchArchive(tmp_path / "bad.pt") as archive:
            assert archive.names == []
        return
    with pytest.raises(CheckpointError, match=f"bad.pt: {rule}"), TorchArchive(tmp_path / "bad.pt") as archive:
        archive.tensor("weight")


def test_a_tensor_that_repeats_its_storage_is_refused(tmp_path):
    torch.save({"weight": torch.ones(1).expand(1000)}, tmp_path / "model.pt")
    with (
        TorchArchive(tmp_path / "model.pt") as archive,
        pytest.raises(CheckpointError, match="weight must have 4000 bytes, got 4"),
    ):
        archive.tensor("weight")


def test_bytes_that_change_are_refused_or_read(tmp_path):
    """Whatever changes in a file, there is no other error."""
    torch.save({f"weight{number}": torch.ones(number) for number in range(4)}, tmp_path / "model.pt")
    whole, choose = (tmp_path / "model.pt").read_bytes(), random.Random(0)
    refused = 0
    for _ in range(400):
        changed = bytearray(whole)
        for _ in range(choose.choice((1, 2, 20))):
            changed[choose.randrange(len(changed))] = choose.randrange(256)
        (tmp_path / "bad.pt").write_bytes(changed[: choose.choice((len(changed), choose.randrange(len(changed))))])
        try:
            with TorchArchive(tmp_path / "bad.pt") as archive:
                for name in archive.names:
                    archive.tensor(name)
        except CheckpointError:
            refused += 1
    assert 200 < refused < 400


def test_what_is_no_archive_or_compressed_is_refused(tmp_path):
    (tmp_path / "text.pt").write_text("no archive")
    torch.save({"weight": torch.ones(6)}, tmp_path / "model.pt")
    rewritten(tmp_path / "model.pt", tmp_path / "small.pt", lambda name, data: data, zipfile.ZIP_DEFLATED)
    for name, rule in (
        ("text.pt", "must be an archive that torch has saved"), ("none.pt", "must be an archive"),
        ("small.pt", "data.pkl must not be compressed"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=f"{name}: .*{rule}"):
            TorchArchive(tmp_path / name)
