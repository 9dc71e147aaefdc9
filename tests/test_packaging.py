"""The wheel: one top-level name, every folder in it, nothing else."""

import subprocess
import sys
import tomllib
import zipfile

import pytest

FOLDERS = ("core", "media", "kernels", "tokenizer", "lm", "sampling", "generation", "training", "data", "evaluation",
           "bench", "world", "commands")  # fmt: skip


@pytest.fixture(scope="module")
def names(root, tmp_path_factory):
    """The files in a wheel that is built from the tracked files."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        path = root / name
        if path.is_file() and not path.is_symlink() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(path.read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_the_only_top_level_name_is_reelm(names):
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"reelm"}


def test_every_module_and_the_bundled_model_are_in_it(names, root):
    wanted = {
        f"reelm/{path.relative_to(root).as_posix()}" for folder in FOLDERS for path in (root / folder).glob("*.py")
    }
    wanted |= {"reelm/__init__.py", "reelm/cli.py", "reelm/py.typed"}
    bundled = [path for path in (root / "checkpoints").rglob("*") if path.suffix in (".json", ".safetensors", ".model")]
    assert len(bundled) >= 4
    wanted |= {f"reelm/{path.relative_to(root).as_posix()}" for path in bundled}
    assert wanted <= set(names)
    assert not [name for name in names if "test" in name]


def test_the_bundled_models_are_small(root):
    assert sum(path.stat().st_size for path in (root / "checkpoints").rglob("*") if path.is_file()) <= 40 * 2**20


def test_every_folder_is_listed_in_pyproject(root):
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    for folder in FOLDERS:
        assert f"reelm.{folder}" in listed["packages"]
        assert listed["package-dir"][f"reelm.{folder}"] == folder


def test_constraints_pin_every_dependency(root):
    pinned = {
        line.split("==")[0].strip().lower().replace("_", "-")
        for line in (root / "constraints.txt").read_text().splitlines() if "==" in line
    }  # fmt: skip
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = [dep for name in ("train", "dev") for dep in project["optional-dependencies"][name]]
    for dependency in (*project["dependencies"], *extras):
        name = dependency.split(";")[0].split("[")[0].split(">")[0].strip().lower()
        assert name == "reelm" or name in pinned, f"{name} is not pinned in constraints.txt"
