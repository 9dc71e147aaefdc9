"""Prefetching: a background thread computes the next item while the caller still uses the current one.

for tokens_Bhw in prefetch(frames):     # the next latent frame is sampled in the background
    show(decode(tokens_Bhw))            # while this one is decoded to pixels
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the same items in the same order, with the next one always being computed in the background.

    One thread computes all items. An exception raised while an item is computed is raised where that item would have
    been yielded. Closing the iterator waits for the item that is being computed and starts no other.
    """
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, "prefetch") as pool:
        pending = pool.submit(next, source, end)
        while (item := pending.result()) is not end:
            pending = pool.submit(next, source, end)
            yield item  # type: ignore[misc]
