"""Progress bars with rate and remaining time, only on a terminal and only for work of more than two seconds.

for step in progress(range(steps), "training", unit="step"): ...
"""

import contextlib
import sys
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], label: str, *, unit: str = "it", total: int | None = None) -> Generator[T, None, None]:
    """Yield `items` under a progress bar on stderr; show nothing where stderr is not a terminal.

    Args:
        items: The items to yield.
        label: The text before the bar.
        unit: The name of one item.
        total: The number of items, for items without a length.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    from tqdm import tqdm

    yield from tqdm(items, desc=label, unit=unit, total=total, delay=2.0, dynamic_ncols=True, leave=False)


def note(message: object) -> None:
    """Print one line for the user on stderr; stdout is kept for results. Where nobody reads stderr, do nothing."""
    with contextlib.suppress(BrokenPipeError):
        print(message, file=sys.stderr, flush=True)
