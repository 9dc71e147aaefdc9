"""Logs: files of JSON lines, to which one is appended at a time.

    log = LineLog(folder / "results.jsonl")
    log.add({"row": 3, "seed": 7})                     # written to the file at once

    log = StepLog(folder / "metrics.jsonl")            # one of a run, in ascending order of steps
    log.cut(20)                                        # a run that resumes from step 20 writes the later lines again

Each entry is appended in one write, so its cost does not grow with the log. A partial line that a killed run has left
is not an entry.
"""

import errno
import json
import os
from pathlib import Path
from typing import Any, TypeAlias

from .files import atomic_write

Entry: TypeAlias = dict[str, Any]


def read_log(path: Path) -> list[Entry]:
    """Return the entries of a log up to the first partial line; an empty list where there is no file."""
    entries: list[Entry] = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            entries.append(json.loads(line if line.endswith(b"\n") else b""))
        except ValueError:
            break
    return entries


class LineLog:
    """A log file that entries are appended to.

    Attributes:
        entries: The entries in the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries = read_log(path)
        # Remove a partial line, which the next entry would be appended to.
        if path.exists() and path.read_bytes() != self._text():
            atomic_write(path, self._text())

    def _text(self) -> bytes:
        return "".join(json.dumps(entry) + "\n" for entry in self.entries).encode()

    def add(self, entry: Entry) -> None:
        """Append an entry.

        Raises:
            OSError: The disk is full; what is there of the line is no entry.
        """
        self.entries.append(entry)
        line = (json.dumps(entry) + "\n").encode()
        # Unbuffered, so that the line is one write and is in the file when this returns.
        with self._path.open("ab", buffering=0) as file:
            if (file.write(line) or 0) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def replace(self, entries: list[Entry]) -> None:
        """Put others in the place of all entries."""
        if entries != self.entries:
            self.entries = entries
            atomic_write(self._path, self._text())


class StepLog(LineLog):
    """A log of the steps of a run: the step of each entry, and the figures that were measured at it."""

    def cut(self, step: int) -> None:
        """Drop the entries of later steps than `step`, from the file too."""
        self.replace([entry for entry in self.entries if entry["step"] <= step])
