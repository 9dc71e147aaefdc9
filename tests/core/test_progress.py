"""Progress where stderr is no terminal: a line every while, with what is done, the pace and the time left."""

import itertools

import pytest

from reelm.core import progress as module
from reelm.core.progress import progress, waiting


@pytest.fixture
def clock(monkeypatch):
    """A clock that advances by ten seconds whenever it is read."""
    ticks = itertools.count(0, 10)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(ticks))


def test_a_log_gets_a_line_every_half_minute(clock, capsys):
    assert list(progress(range(4, 10), "training", unit="step", done=4)) == [*range(4, 10)]
    # Read at 0, then before each item; the fourth is given at 40 s, when three were done.
    assert capsys.readouterr().err == "training: step 6 of 10, 15 seconds each, 0:01:00 left\n" + (
        "training: step 9 of 10, 12 seconds each, 0:00:12 left\n"
    )
    with waiting("loading"):
        pass
    assert list(progress(iter("abcd"), "reading")) == [*"abcd"]
    out, err = capsys.readouterr()
    assert (out, err) == ("", "reading: it 2, 15 seconds each\n")


def test_a_bar_needs_a_terminal_and_goes_on_where_it_was(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(module, "DELAY", 0.0)
    assert list(progress([1, 2], "training", unit="step", done=8)) == [1, 2]
    with waiting("loading"):
        pass
    assert "8/10" in capsys.readouterr().err
