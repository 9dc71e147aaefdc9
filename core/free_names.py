"""File names that no file has yet, so that an output replaces nothing.

free_name("world")                      # "world.mp4", or "world-2.mp4" where that is taken
free_path(Path("runs/model"))           # runs/model, or runs/model-2
"""

import itertools
import os
from pathlib import Path


def numbered_names(name: str, count: int) -> list[str]:
    """Return file names for `count` outputs: `name` itself for one, else name-1, name-2, ... with its suffix."""
    path = Path(name)
    return [name] if count == 1 else [str(path.with_stem(f"{path.stem}-{n}")) for n in range(1, count + 1)]


def free_name(stem: str, count: int = 1) -> str:
    """Return stem.mp4 or the first of stem-2.mp4, stem-3.mp4, ... whose `count` outputs would not replace any file.

    The files, and the partial files of a stream, are looked for in the current folder.
    """
    for number in itertools.count(1):
        name = f"{stem}-{number}.mp4" if number > 1 else f"{stem}.mp4"
        paths = map(Path, numbered_names(name, count))
        if not any(os.path.lexists(each) for path in paths for each in (path, path.with_suffix(".partial.mp4"))):
            return name
    raise AssertionError


def free_path(path: Path) -> Path:
    """Return `path`, or the first of stem-2, stem-3, ... with its suffix that does not exist yet."""
    names = itertools.chain([path], (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2)))
    return next(name for name in names if not os.path.lexists(name))
