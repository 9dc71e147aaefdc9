"""Atomic writes, so that a reader sees the old file or the new one but never a partial one.

with atomic_path("clip.mp4") as path:   # a temporary file in the folder of clip.mp4, with the same suffix
    encoder.write(path)                 # renamed to clip.mp4 at the end, removed after an exception
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .errors import ReelmError


def as_path(value: object, argument: str) -> Path:
    """Return a user's string or path as a `Path`.

    Args:
        value: What the user gave.
        argument: Its name in error messages.

    Raises:
        ReelmError: It is neither a string nor a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise ReelmError(f"{argument}: must be a path, got {value!r}")
    return Path(value)


def check_writable(path: str | Path, argument: str = "output") -> Path:
    """Check that a file can be written at `path`, before any work is done, and return it as a `Path`.

    Args:
        path: The path of the output.
        argument: The name of the path in error messages.

    Raises:
        ReelmError: It is no path, its folder does not exist, or the folder or an existing file is not writable.
    """
    given, path = str(path), as_path(path, argument)
    if path.name in ("", ".."):
        raise ReelmError(f"{argument}: must be the name of a file or folder, got {given!r}")
    folder = path.parent
    if not folder.is_dir():
        raise ReelmError(f"{argument}: its folder must exist, got {str(path)!r}")
    if not os.access(folder, os.W_OK):
        raise ReelmError(f"{argument}: its folder must be writable, got {str(path)!r}")
    if path.is_file() and not os.access(path, os.W_OK):
        raise ReelmError(f"{argument}: the file must be writable, got {str(path)!r}")
    return path


def check_replaceable(
    path: Path,
    is_own: Callable[[Path], bool],
    *,
    overwrite: bool = False,
    inputs: Sequence[object] = (),
    argument: str = "output",
) -> None:
    """Check, before any work is done, that nothing of the user's is lost when an output is written to `path`.

    An empty file and a file of our own may be replaced; any other file only with `overwrite`. What the output is made
    from is never replaced, nor is the folder that it lies in.

    Args:
        path: The file or folder to write.
        is_own: The function that returns whether the file or folder at a path is one of ours.
        overwrite: Whether a file that is not ours may be replaced; a folder that is not ours never is.
        inputs: What the output is made from. Those that are paths are compared with `path` as files, so that links and
            other spellings of a path count as the same.
        argument: The name of the output in error messages.

    Raises:
        ReelmError: Something would be lost.
    """
    if not os.path.lexists(path):
        return
    for source in inputs:
        if isinstance(source, str | os.PathLike) and _same_or_inside(Path(source), path):
            raise ReelmError(f"{argument}: must be another file than what it is made from, got {str(path)!r}")
    if path.is_dir():
        if any(path.iterdir()) and not is_own(path):
            raise ReelmError(f"{argument}: must be a new or empty folder, or one that reelm wrote, got {str(path)!r}")
    elif not overwrite:
        empty = path.is_file() and path.stat().st_size == 0
        if not (empty or (path.is_file() and is_own(path))):
            rule = "must be a new file, or one that reelm wrote, unless overwrite is given"
            raise ReelmError(f"{argument}: {rule}, got {str(path)!r}")


def _same_or_inside(source: Path, path: Path) -> bool:
    """Return whether `source` is the file or folder `path`, or lies in the folder `path`."""
    if not (source.exists() and path.exists()):
        return False
    return source.samefile(path) or (path.is_dir() and path.resolve() in source.resolve().parents)


def _sync(path: Path) -> None:
    # Windows syncs only files that are open for writing; a folder can only be opened for reading.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield the path of a temporary file in the folder of `path`; on success fsync and rename it, else remove it.

    Raises:
        ReelmError: `path` cannot be written.
    """
    path = check_writable(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}-", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    give_usual_mode(temporary)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)  # so that the error of a full disk says what could not be written
        raise
    sync_folder(path.parent)


def give_usual_mode(path: Path) -> None:
    """Give a temporary file or folder, which its owner alone may read, the mode that a new one has."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def sync_folder(path: Path) -> None:
    """Let the names in a folder be on the disk, where that can be asked for."""
    with contextlib.suppress(OSError):  # Windows and some network disks cannot
        _sync(path)


def atomic_write(path: str | Path, *parts: bytes | memoryview | str) -> None:
    """Write `parts` (text as UTF-8), one after the other, to `path` atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.writelines(part.encode() if isinstance(part, str) else part for part in parts)
