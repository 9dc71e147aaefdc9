"""SIGINT (Ctrl-C) and SIGTERM: raise them, hold them back while a file is written, or let a loop end cleanly.

    with raised_signals() as caught:            # around a whole command: a signal is an `Interrupted`
        ...
        with deferred_signals():                # around work that must not be left half done
            ...
        with stop_signals() as stopped:         # around a loop that looks for signals itself
            while not stopped: ...
    code = 128 + caught[0] if caught else 0

Each ends at once at a second signal. Only the main thread gets signals; in any other one these contexts do nothing.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM has asked the process to end."""


class _Raise:
    """The handler of `raised_signals`, which also learns of signals that other handlers catch in its place."""

    def __init__(self) -> None:
        self.caught: list[int] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.caught.append(number)
        raise Interrupted


@contextlib.contextmanager
def raised_signals() -> Iterator[list[int]]:
    """Raise `Interrupted` at a signal, and yield the list in which all signals are collected."""
    handler, report = _Raise(), sys.unraisablehook

    def again(dropped: Any) -> None:
        # Python drops exceptions in finalisers and in callbacks of weak references. A signal that it drops comes again.
        if handler.caught and isinstance(dropped.exc_value, Interrupted):
            threading.Timer(0.01, signal.raise_signal, handler.caught[-1:]).start()
        else:
            report(dropped)

    with _handling(handler):
        sys.unraisablehook = again
        try:
            yield handler.caught
        finally:
            sys.unraisablehook = report


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in the yielded list while the context is open; another SIGINT interrupts at once.

    Another SIGTERM does not: a manager of processes may send it to each of them, and the one that started them, too.
    """
    caught: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        for handler in outer.values():
            if isinstance(handler, _Raise):
                handler.caught.append(number)
                break
        if len(caught) > 1 and number == signal.SIGINT:
            raise Interrupted

    with _handling(handle) as outer:
        yield caught


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back while the context is open: they take effect at its end."""
    caught: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        if len(caught) > 1:
            raise Interrupted

    try:
        with _handling(handle):
            yield
    finally:
        if caught:
            signal.raise_signal(caught[0])


@contextlib.contextmanager
def _handling(handle: Callable[[int, FrameType | None], None]) -> Iterator[dict[int, Any]]:
    """Handle both signals by this function while the context is open, and yield the handlers before it."""
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    outer: dict[int, Any] = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield outer
    finally:
        for number, handler in outer.items():  # None is a handler that is not Python's
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
