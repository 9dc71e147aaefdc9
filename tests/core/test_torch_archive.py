"""Tensors are read from torch's archives as torch reads them, and nothing in the archives runs."""

import pickle
import random
import tracemalloc
import zipfile
from collections import OrderedDict

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


class Pickled:
    """What it is pickled as is a call of a function on some values, and what follows it."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


PAIR, rebuild = ((1, 2), 3), torch._utils._rebuild_parameter


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({PAIR: 1}, "a key is neither a text nor a number"),
        ({PAIR: 1, 2: 3}, "a key is neither a text nor a number"),
        (OrderedDict([(PAIR, 1)]), "a key is neither a text nor a number"),
        ({"names": {"a", "b"}}, "a set is no part of a tensor"),
        ({"names": frozenset("ab")}, "a set is no part of a tensor"),
        (Pickled(rebuild, (torch.ones(2), False, {}), {"shape": (9,)}), "a tensor has no state"),
    ],
)
def test_what_could_be_changed_or_take_for_ever_is_refused(tmp_path, content, words):
    torch.save(content, tmp_path / "model.pt", pickle_protocol=4)
    with pytest.raises(CheckpointError, match=f"model.pt: must hold tensors, and nothing that runs: .*{words}"):
        TorchArchive(tmp_path / "model.pt")


def test_a_large_number_in_a_table_of_objects_takes_no_memory(tmp_path):
    torch.save({}, tmp_path / "model.pt")
    last = (2**20).to_bytes(4, "little")
    large = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.LONG_BINPUT + last + pickle.STOP
    rewritten(tmp_path / "model.pt", tmp_path / "large.pt", lambda name, data: large if "data.pkl" in name else data)
    tracemalloc.start()
    try:
        with TorchArchive(tmp_path / "large.pt") as archive:
            assert archive.names == []
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


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
