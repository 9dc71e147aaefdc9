"""Two stages at once: the next item is made by a thread while its user is still at work on this one.

for tokens_Bhw in ahead(frames):        # the next latent frame is sampled
    show(decode(tokens_Bhw))            # while this one becomes pixels
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items in the same order, the next of them always under way.

    All are made by one thread. What making one raises is raised where it would have been handed out. Dropping the
    iterator waits for the item that is under way, and no other is begun.
    """
    source, done = iter(items), object()
    with ThreadPoolExecutor(1, "ahead") as pool:
        coming = pool.submit(next, source, done)
        while (item := coming.result()) is not done:
            coming = pool.submit(next, source, done)
            yield item  # type: ignore[misc]
