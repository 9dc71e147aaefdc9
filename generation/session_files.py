"""Session files next to clips, so that what was drawn is not lost where drawing or writing is interrupted or fails.

with SessionFiles(["ball.mp4"]) as sessions:
    video = generator.generate("a red ball", callback_on_tokens=sessions.save)
    video.save("ball.mp4")          # ball.session.safetensors exists until here
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ..core.errors import ReelmError, require
from ..core.files import as_path
from ..core.free_names import free_path
from ..core.progress import note
from ..core.signals import deferred_signals
from .session import SessionState, check_state_path

MOST_NOTES = 8


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
        options: Sequence[str] = (),
        drawing_options: Sequence[str] = (),
    ) -> None:
        """Name the files after the clips, and check that they can be written.

        Args:
            clips: The files of the clips, at least one. Where more clips are drawn, the last name is numbered.
            save_state: Whether the files are kept; then they replace sessions of the same names.
            overwrite: Whether they may also replace files that are not sessions of reelm.
            inputs: What the clips are made from; those that are paths are never replaced.
            options: The words of the command line by which `reelm continue` and `reelm decode` load the same model.
            drawing_options: The words of the command line that `reelm continue` needs to draw the same tokens.

        Raises:
            ReelmError: There is no name, a file cannot be written, or one there would be lost.
        """
        require(len(clips) > 0, "clips", "must be at least one", clips)
        self.kept: list[Path] = []
        self._clips = [as_path(clip, "clips") for clip in clips]
        self._save_state, self._overwrite, self._seed = save_state, overwrite, -1
        self._options, self._drawing, self._notes = list(options), list(drawing_options), list[str]()
        self._paths = [clip.with_suffix(".session.safetensors") for clip in self._clips]
        for path in self._paths if save_state else ():
            check_state_path(path, overwrite=overwrite, inputs=inputs)

    def save(self, states: list[SessionState]) -> None:
        """Write the sessions: a function for `callback_on_tokens`.

        A clip of which no latent frame is complete has none. Files that will be removed do not replace existing ones.
        Where a file cannot be written, a note says so, and the clips are made nevertheless.
        """
        with deferred_signals():
            self._seed = -1 if states[0].seed is None else states[0].seed
            self._notes = []
            try:
                for number, state in enumerate(states):
                    if len(state.tokens_thw):
                        self._save(state, number)
            except (ReelmError, OSError) as error:
                note(f"warning: the session is not saved: {error}")

    def _save(self, state: SessionState, number: int) -> None:
        clip, path = (names[min(number, len(names) - 1)] for names in (self._clips, self._paths))
        path = path if self._save_state and number < len(self._paths) else free_path(path)
        self.kept.append(state.save(path, overwrite=self._overwrite))
        drawn, planned = len(state.tokens_thw), state.planned
        output = ["-o", str(clip if number < len(self._clips) else free_path(clip))]
        output += ["--overwrite"] if self._overwrite else []
        if planned is None or drawn == planned:
            words = ["decode", str(path), *self._options, *output]
            self._notes.append(f"the tokens are safe: {shlex.join(['reelm', *words])}")
        else:
            words = ["continue", str(path), *self._options, *self._drawing, *output]
            self._notes.append(
                f"{drawn} of {planned} latent frames are safe (seed {state.seed}); go on with: "
                f"{shlex.join(['reelm', *words])}"
            )

    def __enter__(self) -> "SessionFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and not self._save_state:
            while self.kept:
                self.kept.pop().unlink(missing_ok=True)
        elif error is not None and self.kept:
            for line in self._notes[:MOST_NOTES]:
                note(line)
            if len(self._notes) > MOST_NOTES:
                note(f"and {len(self._notes) - MOST_NOTES} more sessions beside them")
        elif error is not None and self._seed >= 0:
            note(f"the same command with --seed {self._seed} makes the same clip again")
