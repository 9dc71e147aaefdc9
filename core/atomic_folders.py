"""Folders that appear when they are whole: made beside where they will be, and renamed.

with atomic_folder(Path("model")) as folder: ...            # removed after an exception
with resumable_folder(Path("model"), files) as folder: ...  # kept after an interruption, for the next call
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from .errors import ReelmError, require
from .files import check_writable, give_usual_mode, sync_folder


@contextlib.contextmanager
def atomic_folder(folder: Path, argument: str = "folder") -> Iterator[Path]:
    """Yield a temporary folder beside `folder`, which must be new or empty; on success rename it, else remove it.

    Raises:
        ReelmError: There is something in the folder, or it cannot be written.
    """
    _require_free(folder, argument)
    parent = check_writable(folder, argument).parent
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name[:40]}-", dir=parent))
    try:
        yield temporary
        give_usual_mode(temporary)
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(parent)


@contextlib.contextmanager
def resumable_folder(folder: Path, files: Collection[str], argument: str = "folder") -> Iterator[Path]:
    """Yield a folder beside `folder`, which must be new or empty, for these files; on success rename it.

    After an interruption it stays, with what was written, and the next call yields it again. After an error in what is
    read (`ReelmError`) it is removed, since the next call would read the same. What else is in it at the end, such as
    what an interrupted call for other files had begun, is removed.

    Raises:
        ReelmError: There is something in `folder`, or it cannot be written.
    """
    _require_free(folder, argument)
    parent = check_writable(folder, argument).parent
    unfinished = parent / f".{folder.name}.unfinished"
    unfinished.mkdir(exist_ok=True)
    try:
        yield unfinished
    except ReelmError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for other in unfinished.iterdir():
        if other.is_dir():
            shutil.rmtree(other)
        elif other.name not in files:
            other.unlink()
    with contextlib.suppress(FileNotFoundError):
        folder.rmdir()
    unfinished.rename(folder)
    sync_folder(parent)


def _require_free(folder: Path, argument: str) -> None:
    free = not os.path.lexists(folder) or (folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()))
    require(free, argument, "must be new or empty", str(folder))
