"""A lock on a file, which the system lets go when the last process that holds it ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mspipeline.errors import StorageError

_PAUSE_S = 0.05


@contextmanager
def hold(path: Path, *, wait_s: float = 0.0) -> Iterator[int | None]:
    """Hold the lock on `path` and yield its descriptor; None where another process keeps it longer than `wait_s`.

    A child that inherits the descriptor holds the lock too, until it ends.
    Raises StorageError where the file cannot be opened or its file system has no locks.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(f"{path}: cannot be opened ({error.strerror}); choose another output folder") from error
    try:
        patience_ends = time.monotonic() + wait_s
        while not (taken := _take(path, descriptor, fcntl.LOCK_EX)) and time.monotonic() < patience_ends:
            time.sleep(_PAUSE_S)
        yield descriptor if taken else None
    finally:
        os.close(descriptor)


def held(path: Path) -> bool:
    """Whether some process of this host holds the lock. Takes it shared for a moment: a holder should wait a little."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _take(path, descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _take(path: Path, descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StorageError(
            f"{path}: its file system has no file locks ({error.strerror}); put the campaign on one that has"
        ) from error
    return True
