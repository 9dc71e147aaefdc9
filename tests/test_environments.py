"""The versions of the dependencies: bounds that were run, and environments of the lowest and of the newest versions.

An environment of torch's CUDA build takes 8 GB and some minutes to install. With REELM_ENVIRONMENTS=FOLDER the two are
kept in that folder and used again; `pip install` then only checks that they have the right versions.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

FILES = ("constraints-lowest.txt", "constraints.txt", "constraints-newest.txt")
EXTRAS = ("cpu", "train", "metrics", "hub", "serve", "dev")
# What the versions of libraries can break: clip files, what is made of them, networks of users, and the kernels.
TESTED = ("tests/media", "tests/generation", "tests/evaluation/test_saved_networks.py", "tests/kernels")


def pins(root, file):
    """The version of each package in a file of constraints."""
    lines = [line for line in (root / file).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}


@pytest.fixture(scope="module")
def requirements(root):
    """Every requirement of pyproject.toml on other packages, those of the extras EXTRAS included."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in EXTRAS for text in project["optional-dependencies"][extra])]
    return [each for each in map(Requirement, texts) if each.name != "reelm"]


def test_every_lower_bound_is_the_version_in_the_file_of_lowest_ones(root, requirements):
    lowest = pins(root, "constraints-lowest.txt")
    for requirement in requirements:
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        assert Version(bound.version) == lowest[canonicalize_name(requirement.name)], requirement


def test_the_files_admit_each_other_in_order(root, requirements):
    lowest, tested, newest = (pins(root, file) for file in FILES)
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        if name in tested:
            assert lowest[name] <= tested[name] <= newest[name]
        assert lowest[name] <= newest[name]


@pytest.fixture(params=["lowest", "newest"])
def environment(request, root, tmp_path):
    """The bin folder of a virtual environment with the versions of a file, in which this checkout is installed."""
    folder = Path(os.environ.get("REELM_ENVIRONMENTS") or tmp_path) / request.param
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [folder / "bin" / "pip", "install", "-q", "-c", root / f"constraints-{request.param}.txt"]
    subprocess.run([*install, "-e", f"{root}[{','.join(EXTRAS)}]"], check=True)
    return folder / "bin"


@pytest.mark.slow
def test_the_clip_of_the_readme_and_the_tests_of_clips_and_kernels(environment, root, tmp_path):
    job = [
        environment / "reelm",
        "generate",
        "a red ball rolls to the right over grass",
        "--seconds",
        "2",
        "--seed",
        "7",
    ]
    subprocess.run([*job, "-o", "ball.mp4"], cwd=tmp_path, check=True)
    subprocess.run([environment / "reelm", "continue", "ball.mp4", "-o", "longer.mp4"], cwd=tmp_path, check=True)
    assert (tmp_path / "longer.mp4").stat().st_size > (tmp_path / "ball.mp4").stat().st_size > 1000
    tests = [environment / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTED]
    done = subprocess.run(tests, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:]
    print(done.stdout.splitlines()[-1])
