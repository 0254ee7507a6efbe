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
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import psutil
import submitit

from mspipeline.config import Strict, parse
from mspipeline.errors import ConfigError, DataError, Interrupted, Preempted, RunFolderError, StorageError, SuiteError
from mspipeline.files import read_json, write_json
from mspipeline.parallel.lock import hold

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
LOCK_WAIT_S = 1.0
SIGNAL_LATENCY_S = 1.0
"""How long a signal may wait in the worst case before it is passed on."""
NOT_FOUND = 127


class AttemptRecord(Strict):
    """`cell.json`: the latest attempt of a cell. Written by the job alone.

    pid: of the process that runs the commands. step: which command it runs, counted from 0.
    exit_code: of the last command; null while it runs. 128 + n for one that signal n ended.
    node: as SLURM calls it, null elsewhere. log_start: bytes in the log before this attempt; one that SLURM puts back
    into the queue goes on in the log of the one before.
    asked: the first signal that asked it to end. state_saved: `newest_state` when it began. tries: attempts before it
    that died in a row without getting further. memory_ran_out: whether the kernel ended processes for want of memory
    while it ran; null where nobody can tell.
    """

    schema_version: int = 1
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
        return self.exit_code in (None, 128 + signal.SIGKILL) and self.asked != signal.SIGTERM.name


def record_path(cell_folder: Path) -> Path:
    """Where a cell's `cell.json` is."""
    return cell_folder / "cell.json"


def earlier_path(cell_folder: Path) -> Path:
    """Where the last words of a cell's earlier attempts are: a list of what `cell.json` said when the next began."""
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


def _keep(cell_folder: Path) -> None:
    """Put what `cell.json` says with what it said before; called before it says something else."""
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
        _write(cell_folder, record.model_copy(update={"state_saved": -1}))


def _write(cell_folder: Path, record: AttemptRecord) -> None:
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


def utc_now() -> str:
    """The time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat()


def run_commands(
    commands: Sequence[Sequence[str]], cell_folder: str, log: Path | None = None, tries: int | None = None
) -> int:
    """Run command lines one after the other until one ends with another code than 0; give that code.

    INT, TERM and USR2 reach the running command once each; after one of them no further command starts, and where all
    commands so far ended with 0 the code is that of Interrupted or Preempted. A command that does not exist gives 127.
    Where another attempt of the cell still lives, nothing is run or written. log: where this process's output goes, if
    not to the job's own log. tries: so many attempts may die in a row without getting further, then none is made; the
    code is that of SuiteError. A folder that cannot be written gives the code of StorageError.
    """
    try:
        return _run_commands(commands, Path(cell_folder), log, tries)
    except StorageError as error:
        print(f"error: {error}", flush=True)
        return StorageError.exit_code


def _run_commands(commands: Sequence[Sequence[str]], folder: Path, log: Path | None, tries: int | None) -> int:
    if os.environ.get("SUBMITIT_EXECUTOR") == "local" and os.getpgrp() != os.getpid():
        # A session of its own: a terminal's Ctrl-C reaches the campaign alone, which then asks each cell to stop, once.
        os.setsid()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made ({error.strerror}); free some space") from error
    with hold(folder / "lock", wait_s=LOCK_WAIT_S) as lock:
        if lock is None:
            print(f"{folder}: another attempt of this cell is running; this one ends")
            return 0
        runner = _Runner(lock.descriptor)
        earlier = read_attempt(folder)
        if earlier is not None:
            with suppress(StorageError):  # for `logs` alone
                _keep(folder)
        saved, memory_kills = newest_state(folder), _memory_kills()
        environment = submitit.JobEnvironment()
        output = log or environment.paths.stdout
        record = AttemptRecord(
            attempt=earlier.attempt + 1 if earlier else 0,
            job_id=environment.job_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            pid_created=psutil.Process().create_time(),
            log=output,
            log_start=output.stat().st_size if output.exists() else 0,
            node=os.environ.get("SLURMD_NODENAME"),
            started_utc=utc_now(),
            state_saved=saved,
            tries=tries_failed(earlier, saved) if earlier else 0,
        )

        def asked(name: str) -> None:
            nonlocal record
            record = record.model_copy(update={"asked": name})
            _write(folder, record)

        code = 0
        if tries is not None and record.tries >= tries:
            print(f"error: died {record.tries} times without getting further; given up", flush=True)
            commands, code = (), SuiteError.exit_code
        for step, command in enumerate(commands):
            record = record.model_copy(update={"step": step})
            _write(folder, record)
            code = runner.run(command, asked)
            if code:
                break
        ended = {"ended_utc": utc_now(), "exit_code": code, "asked": runner.asked}
        if code == 128 + signal.SIGKILL and memory_kills is not None:
            ended["memory_ran_out"] = (_memory_kills() or 0) > memory_kills
        _write(folder, record.model_copy(update=ended))
    return code


def _memory_kills() -> int | None:
    """Processes that this kernel ended for want of memory since it started; None where it does not say."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


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

    @property
    def asked(self) -> str | None:
        """Name of the first signal that came."""
        return signal.Signals(self._asked[0]).name if self._asked else None

    def run(self, command: Sequence[str], tell: Callable[[str], None]) -> int:
        """Exit code of the command, or that of the stop that came before or during it.

        tell: called with the name of the first signal where the command does not end within a moment.
        """
        code = 0
        if not self._asked:
            try:
                self._child = subprocess.Popen(list(command), pass_fds=(self._lock_descriptor,))
            except OSError as error:
                print(f"{command[0]}: cannot be started ({error.strerror})", flush=True)
                return NOT_FOUND
            self._pass_on()
            code = self._wait(self._child, tell)
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

    def _wait(self, child: subprocess.Popen[bytes], tell: Callable[[str], None]) -> int:
        """Its exit code. Not one long wait: a signal that comes just before a wait begins is seen only when it ends."""
        told = False
        while True:
            with suppress(subprocess.TimeoutExpired):
                return child.wait(timeout=SIGNAL_LATENCY_S)
            if self.asked is not None and not told:
                told = True
                with suppress(StorageError):  # it is told again at the end
                    tell(self.asked)
