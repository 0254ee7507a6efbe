"""Readings on a schedule, from a thread of a process that is not the one it watches."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

from mspipeline.errors import StorageError
from mspipeline.telemetry.cpu import ProcessTree
from mspipeline.telemetry.gpu import Gpus
from mspipeline.telemetry.schema import Identity
from mspipeline.telemetry.shard import StreamWriter

log = logging.getLogger(__name__)

_FLUSH_S = 1.0


@dataclass(frozen=True)
class Sampled:
    """What a sampler did. samples: rows written. peak_rss_bytes: highest sum over the tree, None if never read."""

    samples: int
    peak_rss_bytes: int | None
    cpu_seconds: float


class Sampler:
    """Writes a row for the process tree and one for each GPU every `period_s`, from `start` to `stop`.

    The schedule is absolute: sample n is due n periods after the first, and what comes too late is left out, not
    shifted. Rows go to disk at least every second (or every period, where that is longer), the first at once.
    A disk that fails is logged once; the rest of the run is then not sampled, but its peak is still followed.
    """

    def __init__(
        self, stream: StreamWriter, tree: ProcessTree, gpus: Gpus | None, identity: Identity, *, period_s: float = 0.5
    ) -> None:
        if period_s <= 0:
            raise ValueError(f"period_s is {period_s}, expected more than 0")
        self._stream: StreamWriter | None = stream
        self._tree = tree
        self._gpus = gpus
        self._identity = identity
        self._period_s = period_s
        self._unwritten: list[dict[str, Any]] = []
        self._written = 0
        self._peak_rss_bytes: int | None = None
        self._cpu_seconds = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        """Take the first sample and go on until `stop`."""
        self._thread.start()

    def stop(self) -> Sampled:
        """Take the last sample and put everything on disk. The stream stays open: it is the caller's."""
        self._stopping.set()
        self._thread.join()
        return Sampled(self._written, self._peak_rss_bytes, self._cpu_seconds)

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
        reading = self._tree.read()
        gpus = self._gpus.read() if self._gpus else []
        self._cpu_seconds = time.thread_time()
        if reading.rss_bytes is not None:
            self._peak_rss_bytes = max(reading.rss_bytes, self._peak_rss_bytes or 0)
        if self._stream is None:
            return
        cost = {"sampler_cpu_seconds_total": self._cpu_seconds}
        self._unwritten.append({**stamp, "scope": "process_tree", **asdict(reading), **cost})
        self._unwritten += [{**stamp, "scope": "gpu", **asdict(gpu)} for gpu in gpus]

    def _flush(self) -> None:
        if self._stream is None or not self._unwritten:
            return
        try:
            self._stream.write(self._unwritten)
            self._written += len(self._unwritten)
        except StorageError as error:
            log.warning("sampling stops here: %s", error)
            self._stream = None
        self._unwritten = []
