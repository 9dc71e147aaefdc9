"""Folders that reelm makes. Each holds a marker, so that no file of a user is replaced and no output becomes input.

    check_folder(Path("shards"), "shards")          # before any work: refuses a folder with other files in it
    mark_folder(Path("shards"), "shards")           # makes the folder and its marker
    kind_of(Path("shards"))                         # "shards"; None for a folder that reelm did not make

A folder is ours if it is new, empty, or has the marker of its kind. The marker, `reelm.json`, also records the options
of a training run, so that `--resume` needs no others.
"""

import json
import os
from pathlib import Path
from typing import Any, Literal, get_args

from .. import __version__
from .errors import ReelmError
from .files import as_path, atomic_write
from .json_values import Json

FolderKind = Literal["shards", "token shards", "training of a tokenizer", "training of a language model", "evaluation",
                     "clips of prompts"]  # fmt: skip
_MARKER = "reelm.json"
_SHOWN = 3  # the most file names in a message


def kind_of(folder: Path) -> FolderKind | None:
    """Return the kind of a folder that reelm made, one of `FolderKind`; None for any other folder."""
    kind: FolderKind | None = _read(folder).get("kind")
    return kind


def options_of(folder: Path) -> Json:
    """Return the options that `mark_folder` recorded; none where reelm did not make the folder."""
    options = _read(folder).get("options")
    return options if isinstance(options, dict) else {}


def _read(folder: Path) -> dict[str, Any]:
    """Return the marker of a folder, or nothing if it has none: a user may have a file of that name, too."""
    try:
        values = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    ours = isinstance(values, dict) and "made_by" in values and values.get("kind") in get_args(FolderKind)
    return dict(values) if ours else {}


def check_folder(folder: str | Path, kind: FolderKind, argument: str = "out") -> Path:
    """Check that a folder may be written, before any work is done, and return it as a `Path`; nothing is made yet.

    Args:
        folder: The folder; it need not exist.
        kind: What it is to hold, one of `FolderKind`.
        argument: The name of the folder in error messages.

    Raises:
        ReelmError: It is no folder, holds files and no marker of this kind, or cannot be written.
    """
    path = as_path(folder, argument)
    if path.exists() and not path.is_dir():
        raise ReelmError(f"{argument}: must be a folder, got {str(path)!r}")
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ReelmError(f"{argument}: must be a folder that can be written, got {str(path)!r}")
    found = kind_of(path)
    # Hidden files are those of file managers; reelm writes none that could replace them.
    names = sorted(name for name in os.listdir(path) if name[0] != ".") if path.is_dir() else []
    if found != kind and names:
        rule = f"must be a new or empty folder, or one that reelm made for the {kind}"
        more = ", ..." if len(names) > _SHOWN else ""
        holds = f"the {found}" if found else ", ".join(names[:_SHOWN]) + more
        raise ReelmError(f"{argument}: {rule}, got {str(path)!r}, which holds {holds}")
    return path


def mark_folder(folder: Path, kind: FolderKind, options: Json | None = None, argument: str = "out") -> None:
    """Make a folder with the marker of its kind, after `check_folder`.

    Args:
        folder: The folder; its parents are made, too.
        kind: What it holds, one of `FolderKind`.
        options: Values to record; None keeps those of an existing marker.
        argument: The name of the folder in error messages.

    Raises:
        ReelmError: The folder may not be written.
    """
    check_folder(folder, kind, argument)
    if kind_of(folder) == kind and options is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    values = {"made_by": f"reelm {__version__}", "kind": kind, "options": options or {}}
    atomic_write(folder / _MARKER, json.dumps(values, indent=1) + "\n")
