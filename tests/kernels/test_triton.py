"""The Triton kernels without a GPU, in processes of their own: in the interpreter, and compiled for four chips.

TRITON_INTERPRET must be set before triton is imported and changes it for good, so it may not reach other tests.
"""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")


def assert_cases_pass(folder, *, marks, **environment):
    """Run the cases of a folder in a process of its own; all must pass and none may be skipped. Return its output."""
    kept = {name: value for name, value in os.environ.items() if name not in ("REELM_KERNELS", "TRITON_INTERPRET")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marks]
    command += map(str, sorted((HERE / folder).glob("*_cases.py")))
    result = subprocess.run(command, cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    summary = result.stdout.strip().splitlines()[-1]
    assert " passed" in summary and "skipped" not in summary, summary
    return result.stdout.splitlines()


def test_in_the_interpreter():
    assert_cases_pass("interpreted", marks="not slow", TRITON_INTERPRET="1")


def check_table(lines):
    """Every row is on the page, if that was written with this triton."""
    page = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    if f"triton {importlib.metadata.version('triton')}," in page:
        assert [line for line in lines if line.startswith("|") and line not in page] == [], "run `make kernels`"


def test_compiled_ahead_of_time():
    check_table(assert_cases_pass("compiled", marks="not slow"))


@pytest.mark.slow
def test_sweep_in_the_interpreter():
    assert_cases_pass("interpreted", marks="slow", TRITON_INTERPRET="1")


@pytest.mark.slow
def test_more_compiled_ahead_of_time():
    check_table(assert_cases_pass("compiled", marks="slow"))
