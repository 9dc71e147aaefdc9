"""Compile every kernel for chips that are not present, print the resources that each needs, and write docs/kernels.md.

.venv/bin/python docs/kernels.py            # takes some minutes on two cores; also `make kernels`
"""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INTRODUCTION = """# What the kernels need

Compiled ahead of time with triton {version}, through the launch path of each op, for chips that need not be present:
registers per thread, bytes spilled to local memory, bytes of shared memory per program, and the tensor-core
instruction of the dot products ("-" where a kernel has none, or computes float32 exactly). `make kernels` writes this
page; a test compares it with what the kernels compile to. Older compilers than this one may spill: on sm_90 with triton
3.5 the kernel of dk and dv (bf16, heads of 128) spills 120 bytes.

"""


def main() -> int:
    """Run the cases in tests/kernels/compiled, write their table, and return the exit code of pytest."""
    cases = sorted((ROOT / "tests" / "kernels" / "compiled").glob("*_cases.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "slow or not slow"]
    result = subprocess.run([*command, *map(str, cases)], cwd=ROOT, capture_output=True, text=True, check=False)
    print(result.stdout)
    if result.returncode == 0:
        rows = [line for line in result.stdout.splitlines() if line.startswith("|")]
        page = INTRODUCTION.format(version=importlib.metadata.version("triton")) + "\n".join(rows) + "\n"
        (ROOT / "docs" / "kernels.md").write_text(page, encoding="utf-8")
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
