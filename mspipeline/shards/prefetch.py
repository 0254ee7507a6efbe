"""A thread that works ahead of its consumer, within bounds, and never outlives it."""

from __future__ import annotations

import atexit
import queue
import threading
import weakref
from collections.abc import Generator
from contextlib import suppress
from typing import Any, Generic, TypeVar

from mspipeline.errors import ShardError

Item = TypeVar("Item")


class Prefetch(Generic[Item]):
    """Items of a generator, made by a thread of their own.

    ahead: how many wait at most; one more is in the making. name: of the thread.
    """

    def __init__(self, items: Generator[Item, None, None], ahead: int, *, name: str) -> None:
        self._items = items
        self._queue: queue.Queue[Item | BaseException | None] = queue.Queue(ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        _prefetching.add(self)

    def next(self) -> Item | None:
        """The next item, or None after the last. Raises what the thread met."""
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def stop(self) -> None:
        """End the thread and wait for it. A consumer that asks once more gets an error, not a short epoch."""
        self._stopped.set()
        if threading.current_thread() is self._thread:
            return  # the garbage collector, run by this thread, disposed of the consumer: no one will ask again
        self._drain()  # a thread that waits to hand over finds room, and looks at the event before its next item
        self._thread.join()
        self._drain()
        with suppress(queue.Full):
            self._queue.put_nowait(ShardError("the shard reader was closed in mid-epoch; open a new one"))

    def _run(self) -> None:
        last: BaseException | None = None
        try:
            for item in self._items:
                if not self._hand_over(item):
                    break
        except BaseException as error:
            last = error
        finally:
            self._items.close()
        self._hand_over(last)

    def _hand_over(self, item: Item | BaseException | None) -> bool:
        """Wait for room; False where the consumer has left."""
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._queue.put(item, timeout=0.5)  # `stop` makes room; only one from this very thread cannot
                return True
        return False

    def _drain(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()


_prefetching: weakref.WeakSet[Prefetch[Any]] = weakref.WeakSet()


@atexit.register
def _stop_prefetching() -> None:
    """A process that ends in the middle of an epoch would wait for a thread that Python no longer runs."""
    for prefetch in list(_prefetching):
        prefetch.stop()
