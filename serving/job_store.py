"""The jobs of a server on disk: a SQLite file with what was asked for and what became of it, and a folder for each job.

    store = JobStore(Path("reelm-serve"))
    job = store.add({"model": "world", "prompt": "a red ball", "options": {"seed": 7}})
    store.update(job.id, status="completed")
    store.folder(job.id) / CLIP                              # its finished clip
    store.unfinished()                                       # the jobs to go on with after a kill, the oldest first

Every change is on the disk when its method returns. Any thread may call the methods.
"""

import json
import re
import secrets
import shutil
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, cast

from ..core.errors import CheckpointError
from ..core.json_values import Json

Status: TypeAlias = Literal["queued", "in_progress", "completed", "failed"]
FILE, CLIP, TOKENS, INPUT = "jobs.sqlite", "clip.mp4", "tokens.bin", "input"
FORMAT = 1
_ID = re.compile(r"video_[A-Za-z0-9_-]{22}")  # 128 random bits: cannot be guessed
_TABLE = """
create table if not exists jobs (
    number integer primary key autoincrement, id text unique not null, created real not null, status text not null,
    asked text not null, prompts text, error text, ended real, latent_frames integer not null default 0
)
"""


@dataclass(frozen=True)
class Job:
    """A clip that was asked for.

    Attributes:
        number: Its number in the order of arrival.
        id: Its id.
        created: When it was asked for, in seconds since 1970.
        status: What became of it so far.
        asked: What was asked for, as JSON values.
        prompts: The schedule of its prompts by latent frame, where it was changed while it was drawn.
        error: Why it failed.
        ended: When it was complete or failed.
        latent_frames: The latent frames of the finished clip.
    """

    number: int
    id: str
    created: float
    status: Status
    asked: Json
    prompts: list[tuple[int, str]] | None
    error: str | None
    ended: float | None
    latent_frames: int

    @property
    def is_over(self) -> bool:
        """Whether nothing more is done for it."""
        return self.status in ("completed", "failed")


class JobStore:
    """The jobs in a folder.

    Attributes:
        uploads: The folder for files that are uploaded, until a job takes them.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder, or make it.

        Raises:
            CheckpointError: It holds something else, or jobs of another format, or another server uses it.
        """
        file = folder / FILE
        own = file.is_file() or not folder.exists() or not any(folder.iterdir())
        if not own:
            raise CheckpointError(f"store: must be a new or empty folder, or one of a server, got {folder}")
        self._folder, self._lock, self.uploads = folder, threading.Lock(), folder / "uploads"
        self.uploads.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(file, timeout=0.5, check_same_thread=False, isolation_level=None)
        self._database.row_factory = sqlite3.Row
        try:
            # The lock is held while the file is open, so that no second server draws the same jobs.
            self._database.execute("pragma locking_mode = exclusive")
            self._database.execute("pragma journal_mode = wal")
            self._database.execute("pragma synchronous = full")
            (found,) = self._database.execute("pragma user_version").fetchone()
            if found not in (0, FORMAT):
                raise CheckpointError(f"store: must be of format {FORMAT}, got {found}")
            self._database.execute(_TABLE)
            self._database.execute(f"pragma user_version = {FORMAT}")
        except sqlite3.OperationalError as error:
            raise CheckpointError(f"store: must not be used by another server, got {folder} ({error})") from error
        except sqlite3.DatabaseError as error:
            raise CheckpointError(f"store: must hold the jobs of a server, got {folder} ({error})") from error
        self._sweep()

    def _sweep(self) -> None:
        """Delete what a killed server has left: uploads, and folders without a job."""
        shutil.rmtree(self.uploads)
        self.uploads.mkdir()
        for path in self._folder.iterdir():
            if _ID.fullmatch(path.name) and self.get(path.name) is None:
                shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def add(self, asked: Json, *, identity: str | None = None) -> Job:
        """Add a job that waits to be drawn; `identity` is the result of `new_id` for a folder that is there already."""
        identity = identity or new_id()
        self.folder(identity).mkdir(exist_ok=True)
        row = (identity, time.time(), "queued", json.dumps(asked))
        self._execute("insert into jobs (id, created, status, asked) values (?, ?, ?, ?)", *row)
        job = self.get(identity)
        assert job is not None
        return job

    def get(self, identity: str) -> Job | None:
        """Return a job, or None where there is none of this id."""
        rows = self._execute("select * from jobs where id = ?", identity)
        return _job(rows[0]) if rows else None

    def page(self, *, limit: int, after: str | None = None, newest_first: bool = True) -> list[Job]:
        """Return jobs in the order of arrival.

        Args:
            limit: The most jobs.
            after: The id of the job after which they begin; one that is not there begins at the first.
            newest_first: Whether the order is reversed.
        """
        order, compared = ("desc", "<") if newest_first else ("asc", ">")
        known = self.get(after) if after else None
        where, values = ("", ()) if known is None else (f"where number {compared} ?", (known.number,))
        return [_job(row) for row in self._execute(f"select * from jobs {where} order by number {order} limit ?",
                                                   *values, limit)]  # fmt: skip

    def unfinished(self) -> list[Job]:
        """Return the jobs that wait or are drawn, the oldest first."""
        rows = self._execute("select * from jobs where status in ('queued', 'in_progress') order by number")
        return [_job(row) for row in rows]

    def update(
        self, identity: str, *, status: Status | None = None, prompts: list[tuple[int, str]] | None = None,
        error: str | None = None, latent_frames: int | None = None,
    ) -> None:  # fmt: skip
        """Write what has changed of a job; one that is not there any more is left alone."""
        ended = time.time() if status in ("completed", "failed") else None
        changes = {"status": status, "prompts": None if prompts is None else json.dumps(prompts), "error": error,
                   "latent_frames": latent_frames, "ended": ended}  # fmt: skip
        changes = {name: value for name, value in changes.items() if value is not None}
        if changes:
            names = ", ".join(f"{name} = ?" for name in changes)
            self._execute(f"update jobs set {names} where id = ?", *changes.values(), identity)

    def delete(self, identity: str) -> bool:
        """Delete a job, but not its files, and return whether there was one."""
        return bool(self._execute("delete from jobs where id = ? returning id", identity))

    def delete_files(self, identity: str) -> None:
        """Delete the files of a job."""
        shutil.rmtree(self.folder(identity), ignore_errors=True)

    def folder(self, identity: str) -> Path:
        """Return the folder of a job."""
        assert _ID.fullmatch(identity), identity  # an id from outside comes through `get`
        return self._folder / identity

    def _execute(self, command: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._database.execute(command, values).fetchall()


def new_id() -> str:
    """Return an id that nobody can guess."""
    return f"video_{secrets.token_urlsafe(16)}"


def _job(row: sqlite3.Row) -> Job:
    prompts = None if row["prompts"] is None else [(int(at), str(text)) for at, text in json.loads(row["prompts"])]
    return Job(
        row["number"], row["id"], row["created"], cast(Status, row["status"]), json.loads(row["asked"]), prompts,
        row["error"], row["ended"], row["latent_frames"],
    )  # fmt: skip
