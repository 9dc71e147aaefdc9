"""What an editor says of calls of reelm: mypy --strict and pyright over the README's Python and the files beside this.

    python tests/typing/check.py

The README's code and passes.py must be without errors; refused.py must have an error of each checker on every line that
ends with "# refused", and on no other. reelm is taken from this repository, by the link in .typing: neither checker
follows the finder of an editable installation.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MARK = "# refused"

Errors = dict[tuple[str, int], str]  # (file's name, line) -> the checker's words


def main() -> int:
    """Check, print what is not as it should be, and return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_snippets(Path(folder))
        wanted = {
            (path.name, number)
            for path in paths
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            if line.endswith(MARK)
        }
        wrong = [f"{path.name}: is not checked" for path in paths if not path.stat().st_size]
        for checker, errors in (("mypy", run_mypy(paths)), ("pyright", run_pyright(paths))):
            wrong += [f"{checker}: {file}:{line}: {words}" for (file, line), words in errors.items()
                      if (file, line) not in wanted]  # fmt: skip
            wrong += [f"{checker}: {file}:{line}: must be refused" for file, line in sorted(wanted - errors.keys())]
    print("\n".join(wrong) or f"the calls of {', '.join(path.name for path in paths)}: ok")
    return 1 if wrong else 0


def write_snippets(folder: Path) -> list[Path]:
    """The README's Python, word for word, and copies of the snippets: where reelm is not, as for a user."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    texts = {"readme.py": "\n".join(re.findall(r"```python\n(.*?)```", readme, re.S))}
    for name in ("passes.py", "refused.py"):
        texts[name] = Path(__file__).with_name(name).read_text(encoding="utf-8")
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def run_mypy(paths: list[Path]) -> Errors:
    """The errors of mypy --strict in these files."""
    # Strict is what the user's own code is held against, not what it imports.
    options = ["--strict", "--follow-imports=silent", "--no-error-summary", "--hide-error-context", "--no-pretty"]
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *options]
    out = _run([*command, *map(str, paths)], cwd=ROOT / ".typing")
    found = re.findall(r"^(\S+\.py):(\d+)(?::\d+)?: error: (.*)$", out, re.M)
    assert found or not out.strip(), out
    return {(Path(file).name, int(line)): words for file, line, words in found}


def run_pyright(paths: list[Path]) -> Errors:
    """The errors of pyright in these files, by the settings in pyproject.toml."""
    folder = paths[0].parent
    settings = {"extraPaths": [str(ROOT / ".typing")], "typeCheckingMode": "standard"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--project", str(folder), "--pythonpath", sys.executable]
    report = json.loads(_run([*command, "--outputjson"], cwd=folder))
    assert report["summary"]["filesAnalyzed"] == len(paths), report["summary"]
    return {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1): each["message"]
        for each in report["generalDiagnostics"]
        if each["severity"] == "error"
    }


def _run(command: list[str], cwd: Path) -> str:
    """What a checker prints; pyright, which comes with a node of its own, is not to look for a newer one."""
    environment = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1) and not done.stderr.strip(), done.stdout + done.stderr
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
