"""Atomic files: a reader sees the old file or the new one, never half of one.

with atomic_path("clip.mp4") as path:   # a temporary file beside clip.mp4, with the same suffix
    encoder.write(path)                 # renamed to clip.mp4 at the end, removed after an exception
"""

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import ReelmError


def check_writable(path: str | Path, argument: str = "output") -> Path:
    """Refuse, before any work is done, a path that could not be written at its end. Returns it as a `Path`."""
    path = Path(path)
    folder = path.parent
    if not folder.is_dir():
        raise ReelmError(f"{argument}: its folder must exist, got {str(path)!r}")
    if not os.access(folder, os.W_OK):
        raise ReelmError(f"{argument}: its folder must be writable, got {str(path)!r}")
    if path.is_file() and not os.access(path, os.W_OK):
        raise ReelmError(f"{argument}: the file must be writable, got {str(path)!r}")
    return path


def _sync(path: Path) -> None:
    # Windows syncs only what is open for writing; a folder can only be opened for reading.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success fsync it and rename it to `path`, else remove it."""
    path = check_writable(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}-", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    # mkstemp makes files that only their owner can read; a clip should have the mode that open() would give it.
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The file is there. Windows and some network disks cannot sync a folder.
    with contextlib.suppress(OSError):
        _sync(path.parent)


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def numbered_names(name: str, count: int) -> list[str]:
    """out.mp4 alone, or out-1.mp4, out-2.mp4, ... for several."""
    path = Path(name)
    return [name] if count == 1 else [str(path.with_stem(f"{path.stem}-{n}")) for n in range(1, count + 1)]


def free_name(stem: str, count: int = 1) -> str:
    """stem.mp4 in the current folder, or stem-2.mp4, ... where writing `count` files of it would replace one."""
    for number in itertools.count(1):
        name = f"{stem}-{number}.mp4" if number > 1 else f"{stem}.mp4"
        paths = map(Path, numbered_names(name, count))
        if not any(path.exists() or path.with_suffix(".partial.mp4").exists() for path in paths):
            return name
    raise AssertionError


def free_path(path: Path) -> Path:
    """`path`, or the first of stem-2, stem-3, ... where there is none yet."""
    names = (path, *(path.with_stem(f"{path.stem}-{number}") for number in range(2, 10_000)))
    return next(name for name in names if not name.exists())
