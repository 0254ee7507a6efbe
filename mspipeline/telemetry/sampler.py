"""Readings on a schedule, from a thread of a process that is not the one it watches."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from mspipeline.errors import StorageError, TableError
from mspipeline.telemetry.cpu import UNKNOWN, ProcessTree
from mspipeline.telemetry.gpu import GpuReading, Gpus
from mspipeline.telemetry.schema import Identity
from mspipeline.telemetry.shard import StreamWriter

log = logging.getLogger(__name__)

T = TypeVar("T")

_FLUSH_S = 1.0
_PATIENCE_S = 20.0  # for the last sample: a driver or a disk may keep a reading for ever


@dataclass(frozen=True)
class Sampled:
    """What a sampler did. samples: rows written. peak_rss_bytes: highest sum over the tree, None if never read.

    complete: False where rows were lost for good. Those that the disk still refuses wait in the stream, whose `close`
    tries them once more.
    """

    samples: int
    peak_rss_bytes: int | None
    cpu_seconds: float
    complete: bool


class Sampler:
    """Writes a row for the process tree and one for each GPU every `period_s`, from `start` to `stop`.

    The schedule is absolute: sample n is due n periods after the first, and what comes too late is left out, not
    shifted. Rows go to disk at least every second (or every period, where that is longer), the first at once.
    A reading that fails is null and is tried again. A disk that fails is logged once; the rows that it refused are kept
    and tried again with the next ones, up to `shard.WAITING_BYTES`. Whatever happens, nothing is raised and the peak is
    followed to the end.
    """

    def __init__(
        self,
        stream: StreamWriter,
        tree: ProcessTree,
        gpus: Gpus | None,
        identity: Identity,
        *,
        period_s: float = 0.5,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        if period_s <= 0:
            raise ValueError(f"period_s is {period_s}, expected more than 0")
        self._stream: StreamWriter | None = stream
        self._tree = tree
        self._gpus = gpus
        self._identity = identity
        self._period_s = period_s
        self._patience_s = patience_s
        self._unwritten: list[dict[str, Any]] = []
        self._written = 0
        self._refused = 0  # rows that wait in the stream for a disk that takes them
        self._lost = False
        self._warned: set[str] = set()
        self._peak_rss_bytes: int | None = None
        self._cpu_seconds = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        """Take the first sample and go on until `stop`."""
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads for this user
            self._lost = True
            self._warn("thread", "the job is not sampled: %s", error)

    def stop(self) -> Sampled:
        """Take the last sample and put everything on disk. The stream stays open: it is the caller's."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(self._patience_s)
        if self._thread.is_alive():
            self._lost, self._stream = True, None
            self._warn(
                "hang", "sampling ends without its last sample: a reading takes more than %g s", self._patience_s
            )
        complete = not self._lost and not self._refused
        return Sampled(self._written, self._peak_rss_bytes, self._cpu_seconds, complete)

    def _run(self) -> None:
        started = oldest = time.monotonic()
        self._sample()
        self._flush()
        stopped = False
        while not stopped:
            due = started + self._period_s * (1 + (time.monotonic() - started) // self._period_s)
            stopped = self._stopping.wait(due - time.monotonic())
            if not self._unwritten:
                oldest = time.monotonic()
            self._sample()
            if time.monotonic() - oldest + self._period_s >= _FLUSH_S:
                self._flush()
        self._flush()

    def _sample(self) -> None:
        stamp = self._identity.stamp()
        reading = self._read("the process tree", self._tree.read, UNKNOWN)
        gpus = self._read("the GPUs", self._gpus.read, list[GpuReading]()) if self._gpus else []
        self._cpu_seconds = time.thread_time()
        if reading.rss_bytes is not None:
            self._peak_rss_bytes = max(reading.rss_bytes, self._peak_rss_bytes or 0)
        if self._stream is None:
            return
        cost = {"sampler_cpu_seconds_total": self._cpu_seconds}
        self._unwritten.append({**stamp, "scope": "process_tree", **asdict(reading), **cost})
        self._unwritten += [{**stamp, "scope": "gpu", **asdict(gpu)} for gpu in gpus]

    def _read(self, what: str, question: Callable[[], T], unknown: T) -> T:
        """A reading; `unknown` where it fails in a way that nobody foresaw: the thread must outlive it."""
        try:
            return question()
        except Exception as error:
            self._warn(what, f"no reading of {what}, it is tried again: %s: %s", type(error).__name__, error)
            return unknown

    def _flush(self) -> None:
        rows, self._unwritten = self._unwritten, []
        stream = self._stream
        if stream is None or not rows:
            return
        try:
            stream.write(rows)
            self._written, self._refused = self._written + self._refused + len(rows), 0
        except StorageError as error:
            self._refused += len(rows)
            self._warn("disk", "samples are not written, they are kept and tried again: %s", error)
            if stream.overfull:
                self._lost, self._stream = True, None
                self._warn("end", "sampling stops here: the disk has refused too many samples")
        except TableError as error:
            self._lost = True
            self._warn("value", "samples are left out: %s", error)

    def _warn(self, what: str, words: str, *values: object) -> None:
        """Log a fault of one kind once."""
        if what not in self._warned:
            self._warned.add(what)
            log.warning(words, *values)
