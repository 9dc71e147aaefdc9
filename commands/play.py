"""The command that plays a model: play."""

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..core.errors import require
from ..core.progress import note
from .base import ModelCommand, print_report
from .parser import Option

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from ..core.controls import ControlTrack
    from ..generation.options import PlayOptions
    from ..generation.play import PlaySession


@dataclass(frozen=True, kw_only=True)
class Play(ModelCommand):
    """Play a model with the keys of a terminal, which shows the pictures; escape ends it.

    Attributes:
        prompt: The text that the world begins with.
        clip: A clip, session or picture to play on from.
        seed: The seed of the noise; random unless given.
        seconds: The time to play for; no end unless given, and 60 with --headless.
        keys: What is held in place of the terminal's keys: written, such as "right-30,right+up-8,none-15", or a file
            of it.
        headless: Play without a terminal, with --keys or keys that change at random, and print the figures.
        record: The .mp4 file for the pictures; the keys go into a .keys.txt file beside it.
        overwrite: Replace files that reelm did not write.
        temperature: The sampling temperature, the model's own unless given.
        ahead: Draw the next pictures while these are shown.
    """

    example = "reelm play --model runs/lm/model --headless --seconds 60 --json"
    prompt: Annotated[str, Option(positional=True)] = ""
    clip: Path | None = None
    seed: int | None = None
    seconds: float | None = None
    keys: str | None = None
    headless: bool = False
    record: Path | None = None
    overwrite: bool = False
    temperature: float | None = None
    ahead: bool = True

    def run(self) -> int:
        from ..core.controls import ControlTrack
        from ..core.signals import stop_signals
        from ..generation.play_clock import Player, Script, play_by_clock
        from ..generation.play_file import PlayFile
        from .terminal import Terminal

        require(self.headless or not self.json, "json", "must be given with --headless", self.json)
        seconds = 60.0 if self.headless and self.seconds is None else self.seconds
        generator, recording = self.load(), None
        with stop_signals() as stopped, ExitStack() as stack:
            session = stack.enter_context(generator.play(self.prompt or None, **self._options()))
            screen = None if self.headless else stack.enter_context(
                Terminal(session.keys, *session.pictures.shape[1:3])
            )  # fmt: skip
            track = self._track(session, seconds)
            player: Player = screen if track is None and screen is not None else Script(
                ControlTrack(()) if track is None else track, session
            )  # fmt: skip
            shows: list[Callable[[np.ndarray], object]] = [screen.draw] if screen is not None else []
            if self.record is not None:
                recording = stack.enter_context(PlayFile(session, self.record, overwrite=self.overwrite))
                shows.append(recording.add)

            report = play_by_clock(
                session, player, lambda picture_HW3: [show(picture_HW3) for show in shows], seconds=seconds,
                stop=lambda: bool(stopped) or (screen is not None and screen.quit),
            )  # fmt: skip
        print_report(dataclasses.asdict(report), json_alone=self.json)
        if recording is not None:
            note(f"wrote {recording.path} and {recording.keys_path}")
        return 128 + stopped[0] if stopped else 0

    def _options(self) -> "PlayOptions":
        """Return the options of the session: those that were given."""
        options: PlayOptions = {"ahead": self.ahead}
        if self.seed is not None:
            options["seed"] = self.seed
        if self.temperature is not None:
            options["temperature"] = self.temperature
        if self.clip is not None:
            options["clip"] = self.clip
        return options

    def _track(self, session: "PlaySession", seconds: float | None) -> "ControlTrack | None":
        """Return what is held, where it is not what a player holds."""
        from ..core.controls import read_written
        from ..generation.play_clock import random_track
        from ..generation.play_file import read_keys_file

        if self.keys is not None:
            known = session.keys
            return (
                read_keys_file(self.keys, known) if Path(self.keys).is_file() else read_written(self.keys, known=known)
            )
        if not self.headless:
            return None
        assert seconds is not None
        return random_track(session.keys, round(seconds * session.fps), fps=session.fps, seed=session.seed)
