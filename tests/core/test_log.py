"""The log of a run: what is appended, and what a kill or a resumed run leaves of it."""

import json
from pathlib import Path

import pytest

from reelm.core import log as module
from reelm.core.log import StepLog, read_log


def filled(path: Path, steps: int) -> StepLog:
    log = StepLog(path)
    for step in range(1, steps + 1):
        log.add({"step": step, "loss": 1 / step})
    return log


def test_each_line_is_there_at_once_and_appended(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "atomic_write", lambda *_: pytest.fail("written whole"))
    path = tmp_path / "log"
    log = StepLog(path)
    for step in range(1, 50):
        before = path.read_bytes() if path.exists() else b""
        log.add({"step": step, "loss": 0.1})
        after = path.read_bytes()
        assert after.startswith(before)
        assert json.loads(after[len(before) :]) == {"step": step, "loss": 0.1}
    assert read_log(path) == log.entries == StepLog(path).entries


@pytest.mark.parametrize("torn", [b"{", b'{"step": 4, "loss": 0.2', b'{"step": 4, "loss": 0.25}', b"\0\0\n", b"\xff"])
def test_a_torn_last_line_is_no_entry_and_nothing_is_added_to_it(torn, tmp_path):
    whole = filled(tmp_path / "whole", 4)._path.read_bytes()
    path = filled(tmp_path / "parts", 3)._path
    path.write_bytes(path.read_bytes() + torn)
    assert len(read_log(path)) == 3
    log = StepLog(path)
    log.cut(3)
    log.add({"step": 4, "loss": 0.25})
    assert path.read_bytes() == whole


def test_a_cut_log_has_the_bytes_of_one_that_stopped_there(tmp_path):
    log = filled(tmp_path / "long", 9)
    for step in (9, 6, 0):
        log.cut(step)
        assert log._path.read_bytes() == (filled(tmp_path / f"{step}", step)._path.read_bytes() if step else b"")
    assert StepLog(tmp_path / "none").entries == []
    assert not (tmp_path / "none").exists()
