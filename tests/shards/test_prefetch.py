"""mspipeline.shards.prefetch: ahead within bounds, and gone with its consumer."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

from mspipeline.errors import ShardError
from mspipeline.shards.prefetch import Prefetch


def counting(made: list[int], until: int) -> Generator[int, None, None]:
    for number in range(until):
        made.append(number)
        yield number


def wait_for(made: list[int], length: int) -> None:
    deadline = time.monotonic() + 10
    while len(made) < length and time.monotonic() < deadline:
        time.sleep(0.001)


def test_items_come_in_order_and_none_ends_them() -> None:
    prefetch = Prefetch(counting([], 5), 2, name="t")
    assert [prefetch.next() for _ in range(6)] == [0, 1, 2, 3, 4, None]
    prefetch.stop()


def test_no_more_than_ahead_and_one_are_made_before_they_are_asked_for() -> None:
    made: list[int] = []
    prefetch = Prefetch(counting(made, 100), 3, name="t")
    wait_for(made, 4)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    prefetch.next()
    wait_for(made, 5)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3, 4]
    prefetch.stop()


def test_an_error_arrives_after_what_was_made_before_it() -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        raise MemoryError("no room")

    prefetch = Prefetch(failing(), 2, name="t")
    assert prefetch.next() == 1
    with pytest.raises(MemoryError, match="no room"):
        prefetch.next()
    prefetch.stop()


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_stop_ends_the_thread_closes_the_generator_and_may_be_repeated(taken: int) -> None:
    closed = threading.Event()

    def endless() -> Generator[int, None, None]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    prefetch = Prefetch(endless(), 1, name="to stop")
    for _ in range(taken):
        prefetch.next()
    prefetch.stop()
    prefetch.stop()
    assert closed.is_set()
    assert "to stop" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ShardError, match="closed in mid-epoch"):
        prefetch.next()


def test_stop_called_in_its_own_thread_ends_it() -> None:
    """As when the garbage collector, run by that thread, disposes of the consumer while the queue is full."""
    ready = threading.Event()

    def stopping() -> Generator[int, None, None]:
        yield 1
        ready.wait(10)
        prefetch.stop()
        yield 2

    prefetch = Prefetch(stopping(), 1, name="stops itself")
    ready.set()
    deadline = time.monotonic() + 10
    while "stops itself" in {thread.name for thread in threading.enumerate()} and time.monotonic() < deadline:
        time.sleep(0.001)
    assert "stops itself" not in {thread.name for thread in threading.enumerate()}
