"""Every call is checked by mypy and pyright as tests/typing/ says; .ci/run checks so too, without the slow tests."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_both_checkers_take_what_is_right_and_refuse_what_is_not(root):
    command = [sys.executable, root / "tests" / "typing" / "check.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ci_checks_the_types_of_calls(root):
    for name in (".ci/run", "Makefile"):
        assert "tests/typing/check.py" in (root / name).read_text(encoding="utf-8")
