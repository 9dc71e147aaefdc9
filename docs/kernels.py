"""Compile every kernel for chips that are not here, print the table of what each needs, and write docs/kernels.md.

.venv/bin/python docs/kernels.py            # some minutes on two cores; `make kernels`
"""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# What the kernels need

Compiled ahead of time with triton {version}, through the launch path of each op, for chips that need not be here:
registers of a thread, bytes spilled to local memory, bytes of shared memory of a program, and the tensor-core
instruction that the dot products became ("-" where a kernel has none, or computes float32 exactly). `make kernels`
writes this page; a test holds it against what the kernels compile to.

"""


def main() -> int:
    """Run the cases of tests/kernels/compiled and keep the table that they print."""
    cases = sorted((ROOT / "tests" / "kernels" / "compiled").glob("*_cases.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "slow or not slow"]
    result = subprocess.run([*command, *map(str, cases)], cwd=ROOT, capture_output=True, text=True, check=False)
    print(result.stdout)
    if result.returncode == 0:
        rows = [line for line in result.stdout.splitlines() if line.startswith("|")]
        page = HEAD.format(version=importlib.metadata.version("triton")) + "\n".join(rows) + "\n"
        (ROOT / "docs" / "kernels.md").write_text(page, encoding="utf-8")
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
