"""Progress bars with rate and time left, on a terminal only, for work of more than two seconds.

for step in progress(range(steps), "training", unit="step"): ...
"""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], what: str, *, unit: str = "it", total: int | None = None) -> Iterator[T]:
    """Yield `items` (`total`, if they have no length) under a bar on stderr; silent where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    from tqdm import tqdm

    yield from tqdm(items, desc=what, unit=unit, total=total, delay=2.0, dynamic_ncols=True, leave=False)


def note(message: Any) -> None:
    """One line to the user on stderr (stdout belongs to results)."""
    print(message, file=sys.stderr, flush=True)
