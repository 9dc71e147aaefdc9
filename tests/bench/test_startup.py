"""What a clip from a shell costs: processes in turns. The measurement itself is a slow test."""

import pytest

from reelm.bench import startup
from reelm.bench.startup import measure_processes, measure_startup
from reelm.bench.turns import ratios_of
from reelm.core.errors import ReelmError

BUSY = "import time\nwhile time.process_time() < {}: pass"


def test_processor_time_is_that_of_each_process_and_waiting_costs_none():
    commands = {"busy": ["-c", BUSY.format(0.3)], "idle": ["-S", "-c", "import time; time.sleep(0.3)"]}
    (times,) = measure_processes(commands, 1, warm_up=False)
    assert list(times) == ["busy", "idle"]
    assert 0.3 <= times["busy"][0] < 0.6 and times["idle"][0] < 0.2
    assert all(seconds >= 0.3 for _, seconds in times.values())


def test_the_first_round_is_not_counted(tmp_path):
    count = f"open({str(tmp_path / 'runs')!r}, 'a').write('x')"
    assert len(measure_processes({"row": ["-S", "-c", count]}, 2)) == 2
    assert (tmp_path / "runs").read_text() == "xxx"


def test_a_process_that_fails_says_why():
    with pytest.raises(ReelmError, match=r"^row: must end with code 0, got 3: no such thing$"):
        measure_processes({"row": ["-S", "-c", "import sys; print('no such thing', file=sys.stderr); sys.exit(3)"]}, 1)


def test_a_ratio_is_taken_within_a_round():
    slow_round = [1.0, 2.0, 30.0, 4.0, 5.0]
    assert ratios_of([2 * x for x in slow_round], slow_round) == {"ratio": 2, "ratio_low": 2, "ratio_high": 2}
    assert ratios_of([1, 2, 3, 4, 5], [1] * 5) == {"ratio": 3, "ratio_low": 2, "ratio_high": 4}
    assert ratios_of([3], [2])["ratio_high"] == 1.5


@pytest.mark.parametrize(("options", "message"), [
    ({"repeats": 0}, "repeats: must be at least 1"), ({"seconds": -1.0}, "seconds: must be a number above 0"),
    ({"model": "wrold"}, "model: must be a folder"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused_before_a_process_starts(options, message, monkeypatch):
    monkeypatch.setattr(startup, "measure_processes", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(ReelmError, match=message):
        measure_startup(**options)


@pytest.mark.slow
def test_a_clip_from_a_shell_costs_little_more_than_torch():
    base, clip = measure_startup(repeats=5)["rows"]
    assert base["ratio"] == 1 and clip["ratio"] < 2, clip  # 1.4 to 1.5, 1.8 with OpenVINO; it was 3
