"""`cell.json`: what became of the attempts of a cell, written by its job.

While an attempt lives, it and the command it runs hold the lock CELL/lock, which the system releases when the last of
them ends, however it ends. So a cell never runs twice at once, and a running attempt is no dead one.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import Literal

from mspipeline.config import Strict, parse
from mspipeline.errors import ConfigError, DataError, RunFolderError, StorageError
from mspipeline.files import read_json, write_json

KILLED = 128 + signal.SIGKILL


class AttemptRecord(Strict):
    """`cell.json`: the latest attempt of a cell. Written by the job alone.

    pid: of the process that runs the commands. step: which command it runs, counted from 0.
    exit_code: of the last command; null while it runs. 128 + n for one that signal n ended.
    node: as the scheduler calls it, null on this machine. log_start: bytes in the log before this attempt; one that
    goes back into the queue continues in the log of the one before.
    asked: the first signal that asked it to end. state_saved: `newest_state` when it began. tries: attempts before it
    that died in a row without getting further. memory_ran_out: whether the kernel ended processes for want of memory
    while it ran; null where nobody can tell.
    """

    schema_version: Literal[1] = 1
    attempt: int
    job_id: str
    host: str
    pid: int
    pid_created: float
    log: Path
    log_start: int = 0
    node: str | None = None
    step: int = 0
    started_utc: str
    ended_utc: str | None = None
    exit_code: int | None = None
    asked: str | None = None
    state_saved: int = 0
    tries: int = 0
    memory_ran_out: bool | None = None

    @property
    def died(self) -> bool:
        """Whether it ended, if it is over, without a word or by a KILL that nobody had warned it of.

        One that was asked by TERM was preempted, requeued or cancelled, and had no fault in that.
        """
        return self.exit_code in (None, KILLED) and self.asked != signal.SIGTERM.name


def record_path(cell_folder: Path) -> Path:
    """Where a cell's `cell.json` is."""
    return cell_folder / "cell.json"


def earlier_path(cell_folder: Path) -> Path:
    """Where the records of a cell's earlier attempts are: `cell.json` of each as it was when the next began."""
    return cell_folder / "earlier.json"


def read_attempt(cell_folder: Path) -> AttemptRecord | None:
    """The latest attempt of a cell; None where it never began. Raises RunFolderError where the file is not readable."""
    path = record_path(cell_folder)
    if not path.exists():
        return None
    try:
        document = read_json(path, what="record of a cell's attempt", remedy="remove it and resume the campaign")
        return parse(document, AttemptRecord, where=str(path))
    except (DataError, ConfigError) as error:
        raise RunFolderError(str(error)) from error


def read_attempts(cell_folder: Path) -> list[AttemptRecord]:
    """All attempts of a cell, the latest last. Raises RunFolderError as `read_attempt` does."""
    latest = read_attempt(cell_folder)
    path = earlier_path(cell_folder)
    if latest is None:
        return []
    if not path.exists():
        return [latest]
    try:
        document = read_json(path, what="record of a cell's attempts", remedy="remove it, it is for `logs` alone")
        earlier = [parse(each, AttemptRecord, where=str(path)) for each in document]
    except (DataError, ConfigError) as error:
        raise RunFolderError(str(error)) from error
    return [*(each for each in earlier if each.attempt < latest.attempt), latest]


def keep_earlier(cell_folder: Path) -> None:
    """Keep the latest record with the earlier ones; called before it is overwritten."""
    try:
        attempts = read_attempts(cell_folder)
    except RunFolderError:
        return  # no reason for a cell not to run
    write_json(earlier_path(cell_folder), [each.model_dump(mode="json") for each in attempts])


def newest_state(cell_folder: Path) -> int:
    """What changes whenever a cell's training saves its state; 0 before. By the file server's clock, no host's."""
    times = []
    for path in (cell_folder / "checkpoints").glob("**/last.h5"):
        with suppress(OSError):
            times.append(path.stat().st_mtime_ns)
    return max(times, default=0)


def tries_failed(record: AttemptRecord, newest: int) -> int:
    """Attempts in a row that died without getting further, up to this one, which is over.

    newest: `newest_state` now.
    """
    return record.tries + record.died if newest == record.state_saved else 0


def forgive(cell_folder: Path) -> None:
    """Let a cell that is over have all its tries again."""
    record = read_attempt(cell_folder)
    if record is not None:
        write_attempt(cell_folder, record.model_copy(update={"state_saved": -1}))


def write_attempt(cell_folder: Path, record: AttemptRecord) -> None:
    """`cell.json`, whole or not at all; on a full disk over the old one, which has its room already."""
    path = record_path(cell_folder)
    try:
        write_json(path, record.model_dump(mode="json"))
    except StorageError:
        if not path.exists():
            raise
        try:
            with path.open("r+b") as file:
                file.write(record.model_dump_json().encode())
                file.truncate()
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror}); free some space") from error
