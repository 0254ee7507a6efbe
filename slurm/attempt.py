"""Inside a cell's job: its commands run one after the other, signals are passed on, and `cell.json` says how it went.

The function that submitit pickles is `run_commands`; only command lines enter the job. While an attempt lives, it and
the command it runs hold the lock CELL/lock, which the system lets go when the last of them ends, however it ends. So a
cell never runs twice at once, and a running attempt is told from a dead one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import psutil
import submitit

from mspipeline.config import Strict, parse
from mspipeline.errors import ConfigError, DataError, Interrupted, Preempted, RunFolderError
from mspipeline.files import read_json, write_json
from slurm.lock import hold

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
LOCK_WAIT_S = 1.0
SIGNAL_LATENCY_S = 1.0
"""How long a signal may wait in the worst case before it is passed on."""
NOT_FOUND = 127


class AttemptRecord(Strict):
    """`cell.json`: the latest attempt of a cell. Written by the job alone.

    pid: of the process that runs the commands. step: which command it runs, counted from 0.
    exit_code: of the last command; null while it runs. 128 + n for one that signal n ended.
    """

    schema_version: int = 1
    attempt: int
    job_id: str
    host: str
    pid: int
    pid_created: float
    log: Path
    step: int = 0
    started_utc: str
    ended_utc: str | None = None
    exit_code: int | None = None


def record_path(cell_folder: Path) -> Path:
    """Where a cell's `cell.json` is."""
    return cell_folder / "cell.json"


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


def utc_now() -> str:
    """The time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat()


def run_commands(commands: Sequence[Sequence[str]], cell_folder: str) -> int:
    """Run command lines one after the other until one ends with another code than 0; give that code.

    INT, TERM and USR2 reach the running command once each; after one of them no further command starts, and where all
    commands so far ended with 0 the code is that of Interrupted or Preempted. A command that does not exist gives 127.
    Where another attempt of the cell still lives, nothing is run or written.
    """
    folder = Path(cell_folder)
    if os.environ.get("SUBMITIT_EXECUTOR") == "local" and os.getpgrp() != os.getpid():
        # A session of its own: a terminal's Ctrl-C reaches the campaign alone, which then asks each cell to stop, once.
        os.setsid()
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder / "lock", wait_s=LOCK_WAIT_S) as descriptor:
        if descriptor is None:
            print(f"{folder}: another attempt of this cell is running; this one ends")
            return 0
        runner = _Runner(descriptor)
        earlier = read_attempt(folder)
        environment = submitit.JobEnvironment()
        record = AttemptRecord(
            attempt=earlier.attempt + 1 if earlier else 0,
            job_id=environment.job_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            pid_created=psutil.Process().create_time(),
            log=environment.paths.stdout,
            started_utc=utc_now(),
        )
        code = 0
        for step, command in enumerate(commands):
            record = record.model_copy(update={"step": step})
            write_json(record_path(folder), record.model_dump(mode="json"))
            code = runner.run(command)
            if code:
                break
        record = record.model_copy(update={"ended_utc": utc_now(), "exit_code": code})
        write_json(record_path(folder), record.model_dump(mode="json"))
    return code


class _Runner:
    """Runs one command at a time and passes signals on to it."""

    def __init__(self, lock_descriptor: int) -> None:
        self._lock_descriptor = lock_descriptor
        self._child: subprocess.Popen[bytes] | None = None
        self._asked: list[int] = []
        self._passed_on: set[int] = set()
        for number in SIGNALS:
            signal.signal(number, self._receive)
        # The submitting process blocked it so that the launcher above this job never sees a terminal's Ctrl-C.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def run(self, command: Sequence[str]) -> int:
        """Exit code of the command, or that of the stop that came before or during it."""
        code = 0
        if not self._asked:
            try:
                self._child = subprocess.Popen(list(command), pass_fds=(self._lock_descriptor,))
            except OSError as error:
                print(f"{command[0]}: cannot be started ({error.strerror})", flush=True)
                return NOT_FOUND
            self._pass_on()
            code = _wait(self._child)
            self._child = None
        if code == 0 and self._asked:
            return Interrupted.exit_code if self._asked[0] == signal.SIGINT else Preempted.exit_code
        return 128 - code if code < 0 else code

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._asked.append(number)
        self._pass_on()

    def _pass_on(self) -> None:
        for number in self._asked:
            if self._child is not None and number not in self._passed_on:
                self._passed_on.add(number)
                self._child.send_signal(number)


def _wait(child: subprocess.Popen[bytes]) -> int:
    """Its exit code. Not one long wait: a signal that comes just before a wait begins is seen only when it ends."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=SIGNAL_LATENCY_S)
