"""Progress bars with rate and remaining time for work of more than two seconds, and lines of it in a log.

    for step in progress(range(steps), "training", unit="step"): ...
    with waiting("loading the model"): ...

A bar needs a terminal. Where stderr is a file or a pipe, there is a line every `LINE_SECONDS` instead.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sized
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")
LINE_SECONDS = 30.0
DELAY = 2.0  # seconds before a bar is shown


def progress(
    items: Iterable[T], label: str, *, unit: str = "it", total: int | None = None, done: int = 0
) -> Generator[T, None, None]:
    """Yield `items` under a progress bar on stderr, or with a line every `LINE_SECONDS` where that is no terminal.

    Args:
        items: The items to yield.
        label: The text before the bar.
        unit: The name of one item.
        total: The number of items, with those that are done, for items without a length.
        done: The number of items that were done before.
    """
    if total is None and isinstance(items, Sized):
        total = done + len(items)
    if not sys.stderr.isatty():
        yield from _with_lines(items, label, unit, total, done)
        return
    from tqdm import tqdm

    yield from tqdm(
        items, desc=label, unit=unit, total=total, initial=done, delay=DELAY, dynamic_ncols=True, leave=False
    )


def _with_lines(items: Iterable[T], label: str, unit: str, total: int | None, done: int) -> Generator[T, None, None]:
    start = last = time.monotonic()
    for count, item in enumerate(items):
        now = time.monotonic()
        if count and now - last >= LINE_SECONDS:
            last, rate, shown = now, count / (now - start), f"{label}: {unit} {done + count}"
            pace = f"{rate:.3g} a second" if rate >= 1 else f"{1 / rate:.3g} seconds each"
            if total is None:
                note(f"{shown}, {pace}")
            else:
                left = timedelta(seconds=round((total - done - count) / rate))
                note(f"{shown} of {total}, {pace}, {left} left")
        yield item


@contextlib.contextmanager
def waiting(label: str) -> Iterator[None]:
    """Show the elapsed seconds on a terminal while one piece of work goes on for more than two seconds."""
    if not sys.stderr.isatty():
        yield
        return
    finished = threading.Event()

    def show() -> None:
        if not finished.wait(DELAY):
            from tqdm import tqdm

            with tqdm(desc=label, bar_format="{desc}: {elapsed}", leave=False, dynamic_ncols=True) as bar:
                bar.start_t -= DELAY
                while not finished.wait(1.0):
                    bar.refresh()

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def note(message: object) -> None:
    """Print one line for the user on stderr; stdout is kept for results. Where nobody reads stderr, do nothing."""
    with contextlib.suppress(BrokenPipeError):
        print(message, file=sys.stderr, flush=True)
