"""Record a play while it goes on: a clip with its tokens, and the keys in a text file beside it.

with PlayFile(session, "run.mp4") as recording:
    play_by_clock(session, player, recording.add)
read_keys_file("run.keys.txt")                      # what was held, to be played again

Until the end, run.partial.mp4 can be played, and the keys are in their file, whatever happens to the process. Turns of
axes are in the tokens of the clip alone.
"""

from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import numpy as np

from ..core.controls import ControlTrack, read_written
from ..core.errors import require
from ..core.files import as_path, check_writable
from ..media.writer import ClipWriter
from .fingerprint import FingerprintBuilder
from .play import PlaySession
from .stream_file import growing_metadata


class PlayFile:
    """The recording of a play, from the beginning of a `with` block to its end.

    Attributes:
        path: The file of the clip.
        keys_path: The text file of the keys, a line for each step.
    """

    def __init__(self, session: PlaySession, path: str | Path, *, overwrite: bool = False) -> None:
        """Check the paths, without opening a file.

        Args:
            session: The session, at its beginning.
            path: The file to write, .mp4 or .mkv.
            overwrite: Whether files that are not recordings of reelm may be replaced.

        Raises:
            ReelmError: A path cannot be written, or a file there would be lost.
        """
        self._session, self._writer = session, ClipWriter(path, session.fps, overwrite=overwrite)
        self.path = self._writer.path
        self.keys_path = self.path.with_suffix(".keys.txt")
        check_writable(self.keys_path, "record")
        lost = self.keys_path.exists() and not overwrite and not _is_keys_file(self.keys_path)
        require(not lost, "record", "must not replace a file that is no list of keys (overwrite)", str(self.keys_path))
        self._fingerprint, self._written, self._shape = FingerprintBuilder(), 0, (0, 0)
        self._keys: TextIO | None = None
        self._first = len(session.pictures)

    def __enter__(self) -> Self:
        self._writer.__enter__()
        self._keys = self.keys_path.open("w", encoding="utf-8")
        return self

    def add(self, picture_HW3: np.ndarray) -> None:
        """Write the next picture, and what was held until now."""
        frames_1HW3 = picture_HW3[None]
        if not self._writer.frames:
            self._shape = picture_HW3.shape[:2]
            self._writer.metadata = growing_metadata(self._session, (1, *self._shape))
        self._writer.write(frames_1HW3)
        self._fingerprint.add(frames_1HW3)
        self._write_keys()

    def _complete(self) -> None:
        """Write the pictures of the last step that were not shown, so that the clip has whole latent frames."""
        left = -(self._writer.frames - self._first) % self._session.step_pictures
        for picture_HW3 in self._session.pictures[len(self._session.pictures) - left :] if left else ():
            self._writer.write(picture_HW3[None])
            self._fingerprint.add(picture_HW3[None])

    def _write_keys(self) -> None:
        steps = self._session.steps(self._written)
        assert self._keys is not None  # in the block
        for track in steps:
            self._keys.write(f"{track.written}\n")
        self._written += len(steps)
        self._keys.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer.frames:
            self._complete()
            state = self._session.session
            grids = {name: tokens.numpy() for name, tokens in state.grids.items()}
            if self._session.past:  # the pictures of a clip that is played on are not in the file
                grids = {}
            shape = (self._writer.frames, *self._shape)
            self._writer.metadata = growing_metadata(self._session, shape, grids, self._fingerprint.build())
        self._write_keys()
        assert self._keys is not None
        self._keys.close()
        self._writer.__exit__(kind, error, trace)


def read_keys_file(path: str | Path, known: tuple[str, ...] = ()) -> ControlTrack:
    """Return what was held, from a text file of the written form, in one line or several.

    Args:
        path: The file.
        known: The names of the keys that there are, if they are known.

    Raises:
        ReelmError: There is no such file, or it has another form.
    """
    file = as_path(path, "keys")
    require(file.is_file(), "keys", "must be a file that exists", str(path))
    return read_written(written_keys(str(file)), known=known)


def written_keys(text: str) -> str:
    """Return the written form in a file, if the text is the path of one; else the text."""
    try:
        is_file = Path(text).is_file()
    except OSError:  # too long for the name of a file
        is_file = False
    if not is_file:
        return text
    lines = Path(text).read_text(encoding="utf-8", errors="replace").split()
    return ",".join(line.strip(",") for line in lines)


def _is_keys_file(path: Path) -> bool:
    """Return whether a file is a list of keys, or the empty one of a recording without any step."""
    try:
        return not path.read_bytes() or len(read_keys_file(path)) > 0
    except ValueError:
        return False
