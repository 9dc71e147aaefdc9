"""A hub: what is drawn of a clip, for any number of viewers, who may come at any time.

hub = Hub()
hub.put(picture)                                # from any thread
async for item in hub.watch(): ...              # all items from the first one on, then each as it comes
hub.close()                                     # ends the viewers when they have seen all
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Hub(Generic[Item]):
    """A growing list that viewers of any event loop follow."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._closed, self._lock = False, threading.Lock()
        self._viewers: dict[object, tuple[asyncio.AbstractEventLoop, asyncio.Event]] = {}

    def put(self, item: Item) -> None:
        """Add an item."""
        self.items.append(item)
        self._notify()

    def close(self) -> None:
        """Say that nothing more comes."""
        self._closed = True
        self._notify()

    def _notify(self) -> None:
        with self._lock:
            for loop, event in self._viewers.values():
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)

    async def watch(self) -> AsyncIterator[Item]:
        """Yield all items from the first one on, then each as it comes, until the hub is closed."""
        event, me, shown = asyncio.Event(), object(), 0
        with self._lock:
            self._viewers[me] = (asyncio.get_running_loop(), event)
        try:
            while True:
                event.clear()
                closed, known = self._closed, len(self.items)
                if shown == known and closed:
                    return
                if shown == known:
                    await event.wait()
                for item in self.items[shown:known]:
                    yield item
                shown = known
        finally:
            with self._lock:
                del self._viewers[me]
