"""Every call is checked by mypy and pyright as tests/typing/ says; .ci/run does the same where slow tests do not run."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_both_checkers_take_what_is_right_and_refuse_what_is_not(root):
    done = subprocess.run([sys.executable, root / "tests" / "typing" / "check.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ci_checks_the_types_of_calls(root):
    for name in (".ci/run", "Makefile"):
        assert "tests/typing/check.py" in (root / name).read_text(encoding="utf-8")
