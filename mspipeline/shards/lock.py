"""One writer at a time on a shards folder, also across hosts that share its file system.

SHARDS/prepare.lock is there while a prepare runs. Its holder has an `flock` on it, which the system lets go however the
holder ends, and writes a sign of life to it now and then. The lock decides on one host, and between hosts where the
file system passes it on (NFS, Lustre with `-o flock`). Where it does not, the signs of life do: a file of another host
whose signs stay away for PATIENCE_S is of a killed run.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from mspipeline.errors import StorageError, UsageError

NAME = "prepare.lock"
BEAT_S = 3.0
PATIENCE_S = 10.0
_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Make the folder, where it is not there, and hold it; one that is empty at the end is removed again.

    Raises UsageError where another process holds it, StorageError where it cannot be written.
    """
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _take(path)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror}); choose another output folder") from error
    since = datetime.now(UTC).isoformat("T", "seconds")
    _sign(descriptor, since, 0)
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(descriptor, since, ended), name="lock-beats", daemon=True)
    beats.start()
    try:
        yield
    finally:
        ended.set()
        beats.join()
        path.unlink(missing_ok=True)  # while it is held: whoever waits for this file sees that it is gone
        os.close(descriptor)
        with suppress(OSError):
            folder.rmdir()


def _take(path: Path) -> int:
    """The descriptor of the file, locked. Raises UsageError where it is held, OSError."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            locked = _lock(descriptor)
            if locked is False:
                raise UsageError(_refusal(path, _note(path)))
            if not _same(path, descriptor):  # removed by its holder between our open and our lock
                os.close(descriptor)
                continue
            note = _note(path)
            told_by_lock = locked and _holder(note).get("host") == socket.gethostname()
            if note and not told_by_lock and _lives(path, note):
                raise UsageError(_refusal(path, note))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _lock(descriptor: int) -> bool | None:
    """Lock it: False where another process holds it, None where this file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lives(path: Path, note: bytes) -> bool:
    """Whether the writer of a note that is in the file still writes."""
    ends = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends:
        time.sleep(BEAT_S / 10)
        if (now := _note(path)) != note:
            return bool(now)
    return False


def _sign(descriptor: int, since: str, beat: int) -> None:
    """Write who holds the folder, and that he lives. A disk that is too full for it: the lock itself holds."""
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "beat": beat}
    note = json.dumps(holder).encode()
    with suppress(OSError):
        os.pwrite(descriptor, note, 0)
        os.ftruncate(descriptor, len(note))


def _beat(descriptor: int, since: str, ended: threading.Event) -> None:
    beat = 0
    while not ended.wait(BEAT_S):
        beat += 1
        _sign(descriptor, since, beat)


def _note(path: Path) -> bytes:
    """What the file says now. It is opened again: NFS asks the server only then."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _holder(note: bytes) -> dict[str, object]:
    try:
        document = json.loads(note)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _refusal(path: Path, note: bytes) -> str:
    holder = _holder(note)
    who = f" (process {holder['pid']} on {holder['host']}, since {holder['since']})" if "pid" in holder else ""
    return f"{path.parent}: another prepare writes to this folder{who}; wait for it, or choose another output folder"
