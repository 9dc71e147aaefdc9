"""Session files next to clips, so that drawn tokens are not lost where a clip cannot be written.

with SessionFiles(["ball.mp4"]) as sessions:
    video = generator.generate("a red ball", callback_on_tokens=sessions.save)
    video.save("ball.mp4")          # ball.session.safetensors exists until here
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ..core.errors import ReelmError
from ..core.files import as_path, free_path
from ..core.progress import note
from .session import SessionState, check_state_path


class SessionFiles:
    """The session files of clips, which exist from the time their tokens are drawn until the clips are written.

    Attributes:
        kept: The files that exist now.
    """

    def __init__(
        self,
        clips: Sequence[str | Path],
        *,
        save_state: bool = False,
        overwrite: bool = False,
        inputs: Sequence[object] = (),
    ) -> None:
        """Name the files after the clips, and check that they can be written.

        Args:
            clips: The files of the clips, one for each clip that is drawn.
            save_state: Whether the files are kept; then they replace sessions of the same names.
            overwrite: Whether they may also replace files that are not sessions of reelm.
            inputs: What the clips are made from; those that are paths are never replaced.

        Raises:
            ReelmError: A file cannot be written, or one there would be lost.
        """
        self.kept: list[Path] = []
        self._save_state, self._overwrite, self._seed = save_state, overwrite, -1
        self._paths = [as_path(clip, "clips").with_suffix(".session.safetensors") for clip in clips]
        for path in self._paths if save_state else ():
            check_state_path(path, overwrite=overwrite, inputs=inputs)

    def save(self, states: list[SessionState]) -> None:
        """Write the sessions: a function for `callback_on_tokens`.

        Files that will be removed do not replace existing ones. Where a file cannot be written, a note says so, and the
        clips are made nevertheless.
        """
        self._seed = -1 if states[0].seed is None else states[0].seed
        paths = self._paths if self._save_state else map(free_path, self._paths)
        try:
            for state, path in zip(states, paths, strict=True):
                self.kept.append(state.save(path, overwrite=self._overwrite))
        except (ReelmError, OSError) as error:
            note(f"warning: the session is not saved: {error}")

    def __enter__(self) -> "SessionFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and not self._save_state:
            while self.kept:
                self.kept.pop().unlink(missing_ok=True)
        elif error is not None and self.kept:
            note(f"the tokens are safe: reelm decode {shlex.join(map(str, self.kept[:1]))}")
        elif error is not None and self._seed >= 0:
            note(f"the same command with --seed {self._seed} makes the same clip again")
