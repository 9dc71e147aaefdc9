"""The README's Python runs, and its commands are the command line's own."""

import re
import subprocess

import pytest


@pytest.fixture(scope="module")
def readme(root):
    return (root / "README.md").read_text(encoding="utf-8")


def blocks(readme, language):
    return re.findall(rf"```{language}\n(.*?)```", readme, re.S)


def test_the_python_runs_word_for_word(readme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(readme, "python")
    assert len(code.strip().splitlines()) <= 12
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert (tmp_path / "ball.mp4").stat().st_size > 1000
    assert names["longer"].seconds > names["video"].seconds


def test_the_first_two_commands_install_and_the_second_runs_the_tests(readme):
    first, second = blocks(readme, "sh")[:2]
    assert "pip install" in first and "-c constraints.txt" in first and "reelm generate" in first
    assert "pip install" in second and "-c constraints.txt" in second and "pytest" in second


def test_every_reelm_command_in_the_readme_exists(readme):
    from reelm.commands.dispatch import COMMANDS

    used = re.findall(r"reelm ([a-z]+)(?: ([a-z]+))?", "\n".join(blocks(readme, "sh")))
    assert used
    for first, second in used:
        assert first in COMMANDS or f"{first} {second}" in COMMANDS, f"reelm {first} {second}"


def test_every_folder_and_picture_that_it_names_exists(readme, root):
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)|\]\((?!http)([^)#]+)\)", readme):
        assert (root / (name[0] or name[1])).exists(), name
    tree = next(block for block in blocks(readme, "text") if "tokenizer/" in block)
    for name in re.findall(r"^(\S+)", tree, re.M):
        assert (root / name).exists(), name


def test_the_ci_script_calls_the_second_command(root):
    script = (root / ".ci" / "run").read_text()
    assert "README.md" in script and "blocks[1]" in script
    assert subprocess.run(["bash", "-n", str(root / ".ci" / "run")], check=False).returncode == 0
