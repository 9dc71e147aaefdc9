"""A window in a terminal: pictures as half blocks, two pixels each, and the keys that are held.

with Terminal(session.keys) as terminal:
    play_by_clock(session, terminal, terminal.draw)

A terminal tells of presses alone, and repeats them while a key is down. So a key counts as held for some time after
each press; the first repetition comes later than the others.
"""

import os
import select
import shutil
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..core.controls import ControlTrack
from ..core.errors import require

if TYPE_CHECKING:
    import numpy as np

HOLD, FIRST_HOLD = 0.12, 0.35  # seconds after a repetition, and after a first press
QUIT = {"\x1b", "\x03", "\x04"}  # escape, Ctrl-C and Ctrl-D
ARROWS = {"\x1b[A": "up", "\x1b[B": "down", "\x1b[C": "right", "\x1b[D": "left"}
NAMES = {**ARROWS, " ": "space"}  # of keys that are no letters
BLOCK = "\u2580"  # the upper half of a cell


def bindings(keys: tuple[str, ...]) -> dict[str, str]:
    """Return the key of the model for what a terminal sends.

    A key of one character is that character, the directions are arrows, and "jump" and "space" are the space bar. Any
    other is the first letter of its name that is free, or else a digit.
    """
    bound = {text: name for text, name in ARROWS.items() if name in keys}
    for name in keys:
        if name in ("jump", "space") and " " not in bound:
            bound[" "] = name
    bound |= {name: name for name in keys if len(name) == 1 and name.isascii()}
    for name in keys:
        if name not in bound.values():
            letters = (*name, *"123456789", *"abcdefghijklmnopqrstuvwxyz")
            bound[next(letter for letter in letters if letter.isascii() and letter not in bound)] = name
    return bound


class Terminal:
    """The player at a terminal, in a `with` block that leaves the terminal as it was.

    Attributes:
        quit: Whether the player wants to end.
    """

    def __init__(self, keys: tuple[str, ...], height: int, width: int) -> None:
        """Check the terminal.

        Args:
            keys: The keys of the model.
            height, width: The size of a picture.

        Raises:
            ReelmError: There is no terminal, or it has too few colours or cells.
        """
        there = sys.stdin.isatty() and sys.stdout.isatty()
        require(there, "terminal", "must be one, or play with --headless", "standard streams that are none")
        term = os.environ.get("TERM", "")
        self._true = os.environ.get("COLORTERM", "") in ("truecolor", "24bit")
        require(self._true or "256color" in term, "terminal", "must have 256 colours (TERM, COLORTERM)", term)
        size, needed = shutil.get_terminal_size(), (width, -(-height // 2) + 2)
        fits = size.columns >= needed[0] and size.lines >= needed[1]
        rule = f"must have {needed[0]} columns and {needed[1]} lines"
        require(fits, "terminal", rule, f"{size.columns} and {size.lines}")
        self.quit, self._bound, self._until = False, bindings(keys), dict[str, float]()
        self._shown, self._began = 0, time.monotonic()

    def __enter__(self) -> Self:
        import termios
        import tty

        self._before = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)
        sys.stdout.write("\x1b[?1049h\x1b[?25l\x1b[2J")  # another screen, no cursor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import termios

        sys.stdout.write("\x1b[0m\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def held(self, seconds: float) -> frozenset[str]:
        """Return the keys that are held now, whatever the player's clock says."""
        del seconds
        while select.select([sys.stdin], [], [], 0)[0]:
            text = os.read(sys.stdin.fileno(), 1).decode("latin-1")
            if text == "\x1b" and select.select([sys.stdin], [], [], 0.002)[0]:
                text += os.read(sys.stdin.fileno(), 2).decode("latin-1")
            self.quit |= text in QUIT or not text
            if not text:
                break
            name, now = self._bound.get(text), time.monotonic()
            if name is not None:
                self._until[name] = now + (HOLD if self._until.get(name, 0.0) > now else FIRST_HOLD)
        now = time.monotonic()
        return frozenset(name for name, until in self._until.items() if until > now)

    def next_keys(self, seconds: float, pictures: int) -> ControlTrack:
        """Return the keys that are held now, for each of the next pictures."""
        return ControlTrack((self.held(seconds),) * pictures)

    def draw(self, picture_HW3: "np.ndarray") -> None:
        """Draw a picture and a line with the keys and the rate."""
        lines = []
        for upper, lower in zip(picture_HW3[::2], picture_HW3[1::2], strict=False):
            cells = (f"{self._colour(38, a)}{self._colour(48, b)}{BLOCK}" for a, b in zip(upper, lower, strict=True))
            lines.append("".join(cells) + "\x1b[0m")
        self._shown += 1
        rate = self._shown / max(1e-6, time.monotonic() - self._began)
        keys = "  ".join(name if NAMES.get(text, text) == name else f"{NAMES.get(text, text)}={name}"
                         for text, name in self._bound.items())  # fmt: skip
        now = "+".join(sorted(self.held(0.0))) or "none"
        lines.append(f"{rate:.1f} pictures a second   {now}\x1b[K\r\n{keys}   escape ends\x1b[K")
        sys.stdout.write("\x1b[H" + "\r\n".join(lines))
        sys.stdout.flush()

    def _colour(self, layer: int, pixel: "np.ndarray") -> str:
        red, green, blue = (int(value) for value in pixel)
        if self._true:
            return f"\x1b[{layer};2;{red};{green};{blue}m"
        cube = 16 + 36 * round(red / 51) + 6 * round(green / 51) + round(blue / 51)  # xterm's cube of 6 x 6 x 6
        return f"\x1b[{layer};5;{cube}m"
