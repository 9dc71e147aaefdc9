"""A log of a run: a file of JSON lines, each of a step, in their order.

    log = StepLog(folder / "metrics.jsonl")
    log.cut(20)                                        # a run that goes on from step 20 writes the later lines anew
    log.add({"step": 40, "loss": 0.5})                 # in the file at once

A line is appended in one write, so that a log costs what its lines do, however many there are. What a killed run has
left of a line is no entry.
"""

import json
from pathlib import Path
from typing import Any

from .files import atomic_write


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log up to the first line that is not whole; none where there is no file."""
    entries: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            entries.append(json.loads(line if line.endswith(b"\n") else b""))
        except ValueError:
            break
    return entries


class StepLog:
    """The entries of a log, and its file.

    Attributes:
        entries: those that are in the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries = read_log(path)
        if path.exists() and path.read_bytes() != self._text():  # or the next line would be added to half of one
            atomic_write(path, self._text())

    def _text(self) -> bytes:
        return "".join(json.dumps(entry) + "\n" for entry in self.entries).encode()

    def cut(self, step: int) -> None:
        """Drop what is told of steps after `step`, from the file too."""
        kept = [entry for entry in self.entries if entry["step"] <= step]
        if len(kept) < len(self.entries):
            self.entries = kept
            atomic_write(self._path, self._text())

    def add(self, entry: dict[str, Any]) -> None:
        """Append an entry of a later step."""
        self.entries.append(entry)
        # Unbuffered: the line is one write, and is there when this returns.
        with self._path.open("ab", buffering=0) as file:
            file.write((json.dumps(entry) + "\n").encode())
