"""The command that plays a model: play."""

import dataclasses
import math
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
    from ..generation.play import PlaySession
    from ..generation.play_clock import PlayReport
    from ..generation.play_options import PlayOptions


@dataclass(frozen=True, kw_only=True)
class Play(ModelCommand):
    """Play a model with the keys of a terminal, which shows the pictures; escape ends it.

    Attributes:
        prompt: The text that the world begins with.
        clip: A clip, session or picture to play on from.
        seed: The seed of the noise; random unless given.
        seconds: The time to play for; no end unless given, and with --headless the length of --keys, else 60.
        keys: What is held in place of the terminal's keys: written, such as "right-30,right+up-8,none-15", or a file
            of it. It gives the same pictures with the same --seed.
        headless: Play without a terminal, with --keys or keys that change at random, and print the figures.
        record: The .mp4 file for the pictures; the keys go into a .keys.txt file beside it.
        overwrite: Replace files that reelm did not write.
        temperature: The sampling temperature, the model's own unless given.
        ahead: Draw the next pictures while these are shown.
    """

    example = 'reelm play "a coin run at night on grass, the player on a ledge"'
    model: str = "run"
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
        from ..core.signals import stop_signals

        require(self.headless or not self.json, "json", "must be given with --headless", self.json)
        finite = self.seconds is None or 0 < self.seconds < math.inf
        require(finite, "seconds", "must be finite and above 0", self.seconds)
        generator = self.load()
        with stop_signals() as stopped, ExitStack() as stack:
            session = stack.enter_context(generator.play(self.prompt or None, **self._options()))
            report = self._play(session, stack, lambda: bool(stopped))
        print_report(dataclasses.asdict(report), json_alone=self.json)
        return 128 + stopped[0] if stopped else 0

    def _play(self, session: "PlaySession", stack: ExitStack, stop: "Callable[[], bool]") -> "PlayReport":
        """Play by the clock, on a screen and into a file where these are wanted, and return the figures."""
        from ..generation.play_clock import Player, RandomPlayer, Script, play_by_clock
        from ..generation.play_file import PlayFile
        from .terminal import Terminal

        size, seconds, track = session.pictures.shape[1:3], self.seconds, self._track(session)
        screen = None if self.headless else stack.enter_context(Terminal(session.keys, *size))
        if self.headless and seconds is None:  # all that is held shows
            seconds = 60.0 if track is None else (1 + len(track)) / session.fps
        player: Player
        if track is not None:
            player = Script(track, session)
        else:
            player = screen if screen is not None else RandomPlayer(session.keys, seed=session.seed)
        shows: list[Callable[[np.ndarray], object]] = [screen.draw] if screen is not None else []
        if self.record is not None:
            recording = PlayFile(session, self.record, overwrite=self.overwrite)
            stack.callback(note, f"wrote {recording.path} and {recording.keys_path}")
            stack.enter_context(recording)
            shows.append(recording.add)
        return play_by_clock(
            session, player, lambda picture_HW3: [show(picture_HW3) for show in shows], seconds=seconds,
            stop=lambda: stop() or (screen is not None and screen.quit),
        )  # fmt: skip

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

    def _track(self, session: "PlaySession") -> "ControlTrack | None":
        """Return what is held, where it is written."""
        from ..core.controls import read_written
        from ..generation.play_file import written_keys

        return None if self.keys is None else read_written(written_keys(self.keys), known=session.keys)
