"""One writer at a time on a shards folder: SHARDS/prepare.lock is there while a prepare runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mspipeline.errors import FolderInUse, StorageError
from mspipeline.parallel.lock import hold, holder_of

NAME = "prepare.lock"


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Make the folder, where it is not there, and hold it; one that is empty at the end is removed again.

    Raises FolderInUse where another process holds it, StorageError where it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror}); choose another output folder") from error
    try:
        with hold(folder / NAME) as lock:
            if lock is None:
                raise FolderInUse(
                    f"{folder}: another prepare writes to this folder ({holder_of(folder / NAME) or 'it just began'}); "
                    "wait for it, or choose another output folder"
                )
            yield
    finally:
        with suppress(OSError):
            folder.rmdir()
