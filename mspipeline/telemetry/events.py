"""The phases of a job, written by the job itself: what it was doing when a sample was taken."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, get_args

from mspipeline.errors import StorageError, TableError
from mspipeline.telemetry.schema import EVENTS, Identity
from mspipeline.telemetry.shard import StreamWriter

log = logging.getLogger(__name__)

Phase = Literal["setup", "train", "validation", "mining", "checkpoint", "evaluate", "predict", "prepare"]
PHASES: tuple[str, ...] = get_args(Phase)


class EventWriter:
    """Begin and end of phases, each on disk before the call returns (0.2 ms).

    path: the attempt's `TelemetryPaths(folder).events`; None writes nothing, through the same interface.
    A disk that fails is logged once, and what it refused goes out with the next event: a job does not die of its
    telemetry, not even where the file cannot be made. Raises TableError where the file is there already.
    """

    def __init__(self, path: Path | None, identity: Identity) -> None:
        self._identity = identity
        self._stream: StreamWriter | None = None
        self._refused = False
        try:
            self._stream = None if path is None else StreamWriter(path, EVENTS)
        except StorageError as error:
            log.warning("phases are not recorded: %s", error)

    def begin(self, phase: Phase, epoch: int | None = None) -> None:
        """The job enters a phase. Phases may nest. epoch: counted from 1."""
        self._write("begin", phase, epoch)

    def end(self, phase: Phase, epoch: int | None = None) -> None:
        """The job leaves the phase that it entered last under this name."""
        self._write("end", phase, epoch)

    @contextmanager
    def phase(self, phase: Phase, epoch: int | None = None) -> Iterator[None]:
        """`with events.phase("train", epoch=3): ...`; ends the phase on an exception too."""
        self.begin(phase, epoch)
        try:
            yield
        finally:
            self.end(phase, epoch)

    def close(self) -> None:
        """End the stream. Closing twice does nothing."""
        stream, self._stream = self._stream, None
        if stream is not None:
            try:
                stream.close()
            except StorageError as error:
                log.warning("phase events are incomplete: %s", error)

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, kind: str, phase: str, epoch: int | None) -> None:
        if phase not in PHASES:
            raise ValueError(f"unknown phase {phase!r}, expected one of {', '.join(PHASES)}")
        if self._stream is None:
            return
        try:
            self._stream.write([{**self._identity.stamp(), "kind": kind, "phase": phase, "epoch": epoch}])
        except (StorageError, TableError) as error:
            if not self._refused:
                log.warning("phase events are not written, they are kept and tried again: %s", error)
            self._refused = True
