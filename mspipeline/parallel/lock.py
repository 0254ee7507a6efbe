"""One holder of a file at a time, between processes and between hosts that share its file system.

The file is there while it is held, and says who holds it. Three things decide, each where the one before it cannot:

1. The file is made exclusively (O_EXCL), and its holder has an `flock` on it, which the system lets go however the
   holder ends. That decides within one kernel, and between hosts where the file system passes locks on (NFS, Lustre
   with `-o flock`).
2. Without locks (Lustre without `-o flock`, DVS, some FUSE), a holder of this host is looked up by its process number
   and start time.
3. A holder of another host is watched: it writes a sign of life every BEAT_S. One whose signs stay away for PATIENCE_S
   has been killed, with its process or its node, and its place is taken.

A holder that was stopped for so long that another took its place notices that with its next sign of life.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mspipeline.errors import StorageError

BEAT_S = 5.0
PATIENCE_S = 30.0
SETTLE_S = 1.0
"""Two that take the place of a dead holder at one moment without locks: the note that stands after this time holds."""
_PAUSE_S = 0.05
_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EBADF, 524)
"""524 is the kernel's ENOTSUPP, which it should keep to itself and which some file systems let out. EBADF: NFS, for a
file that can only be read."""


class Lock:
    """A file that this process holds. descriptor: a child that inherits it holds the file too, while it lives."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor
        self.lost = False
        """Whether another process took it, believing this one dead."""
        self._beat = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        pid = os.getpid()
        since = datetime.now(UTC).isoformat("T", "seconds")
        self._holder = {"host": socket.gethostname(), "pid": pid, "since": since, "token": secrets.token_hex(8)}
        self._holder |= {"kernel": _kernel(), "namespace": _namespace(), "started": _started(pid)}

    def sign(self) -> None:
        """Write who holds it, and that the holder lives. A disk that is too full for it: the lock itself holds."""
        note = json.dumps({**self._holder, "beat": self._beat}).encode()
        with suppress(OSError):
            os.pwrite(self.descriptor, note, 0)
            os.ftruncate(self.descriptor, len(note))
            os.fsync(self.descriptor)

    def stands(self) -> bool:
        """Whether the file is still this process's."""
        try:
            note = _note(self.path)
        except OSError:
            return True  # a file server that does not answer now
        return note is not None and _holder(note).get("token", self._holder["token"]) == self._holder["token"]

    def live(self, on_lost: Callable[[], None] | None) -> None:
        """Sign every BEAT_S from now on, in a thread. on_lost: called there, once, when another took the file."""
        self._thread = threading.Thread(target=self._live, args=(on_lost,), name="lock-beats", daemon=True)
        self._thread.start()

    def _live(self, on_lost: Callable[[], None] | None) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the main thread's
        while not self._ended.wait(BEAT_S):
            if not self.stands():
                self.lost = True
                if on_lost is not None:
                    on_lost()
                return
            self._beat += 1
            self.sign()

    def release(self) -> None:
        """Let it go."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if not self.lost and self.stands():
            with suppress(OSError):
                self.path.unlink()  # while it is held: whoever waits for this file sees that it is gone
        os.close(self.descriptor)


@contextmanager
def hold(path: Path, *, wait_s: float = 0.0, on_lost: Callable[[], None] | None = None) -> Iterator[Lock | None]:
    """Hold `path` while the block runs; None where another process keeps it longer than `wait_s`.

    Judging a holder of another host, or of another container, that was killed takes up to PATIENCE_S longer.
    on_lost: called in a thread where another process took the file, because this one gave no sign of life.
    Raises StorageError where the file cannot be made.
    """
    patience_ends = time.monotonic() + wait_s
    try:
        while (lock := _take(path)) is None and time.monotonic() < patience_ends:
            time.sleep(_PAUSE_S)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from error
    if lock is None:
        yield None
        return
    lock.live(on_lost)
    try:
        yield lock
    finally:
        lock.release()


def held(path: Path) -> bool:
    """Whether some process holds the file, as far as this host can tell.

    Where there are locks, it is taken shared for a moment: a holder should wait a little. Where there are none, judging
    a holder of another host that was killed takes PATIENCE_S.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        locked = _flock(descriptor, fcntl.LOCK_SH)
        return not locked if locked is not None else _lives(path, _note(path) or b"", by_lock=False)
    finally:
        os.close(descriptor)


def holder_of(path: Path) -> str:
    """Who holds the file, in words: `process 42 on node7, since 2026-01-01T00:00:00+00:00`; empty where it is free."""
    holder = _holder(_note(path) or b"")
    if "pid" not in holder:
        return ""
    return f"process {holder['pid']} on {holder.get('host')}, since {holder.get('since')}"


def _take(path: Path) -> Lock | None:
    """The file, taken; None where it is held. Raises OSError."""
    while True:
        descriptor, created, own = _opened(path)
        taken = False
        try:
            locked = _flock(descriptor, fcntl.LOCK_EX)
            if locked is False:
                return None
            if not _same(path, descriptor):  # removed by its holder between our open and our lock
                continue
            note = b"" if created else _note(path) or b""
            if not created and _lives(path, note, by_lock=bool(locked)):
                return None
            if not own:  # another user's, who was killed
                path.unlink(missing_ok=True)
                continue
            lock = Lock(path, descriptor)
            lock.sign()
            decided = created or (locked and _holder(note).get("kernel", _kernel()) == _kernel())
            if not decided:
                time.sleep(SETTLE_S)
                if not lock.stands():
                    return None
            taken = True
            return lock
        finally:
            if not taken:
                os.close(descriptor)


def _opened(path: Path) -> tuple[int, bool, bool]:
    """A descriptor of the file, whether it was made just now, and whether it may be written."""
    while True:
        with suppress(FileExistsError):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), True, True
        try:
            return os.open(path, os.O_RDWR), False, True
        except FileNotFoundError:
            continue  # let go just now
        except PermissionError:
            with suppress(FileNotFoundError):
                return os.open(path, os.O_RDONLY), False, False


def _flock(descriptor: int, kind: int) -> bool | None:
    """Lock it: False where another process holds it, None where this file system has no locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
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


def _lives(path: Path, note: bytes, *, by_lock: bool) -> bool:
    """Whether the writer of a note lives. by_lock: whether its lock was asked for and is free."""
    if not _holder(note):
        time.sleep(_PAUSE_S if by_lock else SETTLE_S)  # it may be about to write
        note = _note(path) or b""
    holder = _holder(note)
    if not holder:
        return False
    if holder.get("kernel") == _kernel():
        if by_lock:
            return False
        if holder.get("namespace") == _namespace():
            return holder.get("started") is not None and _started(int(holder.get("pid", 0))) == holder["started"]
    ends = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends:
        time.sleep(BEAT_S / 10)
        now = _note(path)
        if not now:
            return False  # let go
        if now != note:
            return True
    return False


def _note(path: Path) -> bytes | None:
    """What the file holds now, None where it is gone. It is opened again: NFS asks the server only then."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _holder(note: bytes) -> dict[str, Any]:
    try:
        document = json.loads(note)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _kernel() -> str:
    """What tells this running kernel from every other: hosts may share a name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def _namespace() -> str:
    """What tells this process's numbers from those of another container."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When a process started, in ticks since the kernel did; None where it has ended. proc(5), field 22."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    state, *fields = stat.rpartition(b")")[2].split()
    return None if state in (b"Z", b"X") else int(fields[18])
