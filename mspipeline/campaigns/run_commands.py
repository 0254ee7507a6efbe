"""Inside a cell's job: its commands run one after the other, signals are passed on, and `cell.json` says how it went.

Only command lines enter a job. On this machine submitit pickles `run_in_own_session`, on SLURM a function of `slurm`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psutil
import submitit

from mspipeline.campaigns.attempt import (
    AttemptRecord,
    keep_earlier,
    newest_state,
    read_attempt,
    tries_failed,
    write_attempt,
)
from mspipeline.errors import Interrupted, Preempted, StorageError, SuiteError
from mspipeline.parallel.lock import hold
from mspipeline.runs import utc_now

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
LOCK_WAIT_S = 1.0
SIGNAL_LATENCY_S = 1.0
"""How long a signal may wait in the worst case before it is passed on."""
NOT_FOUND = 127


def run_commands(
    commands: Sequence[Sequence[str]],
    cell_folder: str,
    log: Path | None = None,
    tries: int | None = None,
    node: str | None = None,
) -> int:
    """Run command lines one after the other until one ends with another code than 0; give that code.

    INT, TERM and USR2 reach the running command once each; after one of them no further command starts, and where all
    commands so far ended with 0 the code is that of Interrupted or Preempted. A command that does not exist gives 127.
    Where another attempt of the cell still lives, nothing is run or written.

    log: where this process's output goes, if not to the job's own log. tries: how many attempts in a row may die
    without progress; then nothing is run, and the code is that of SuiteError. node: the scheduler's name of this
    machine, where it has one. A folder that cannot be written gives the code of StorageError.
    """
    try:
        return _run_commands(commands, Path(cell_folder), log, tries, node)
    except StorageError as error:
        print(f"error: {error}", flush=True)
        return StorageError.exit_code


def run_in_own_session(commands: Sequence[Sequence[str]], cell_folder: str) -> int:
    """`run_commands` for a job of this machine, in a session of its own.

    So a terminal's Ctrl-C reaches the campaign alone, which then asks each cell to stop, once.
    """
    if os.getpgrp() != os.getpid():
        os.setsid()
    return run_commands(commands, cell_folder)


def _run_commands(
    commands: Sequence[Sequence[str]], folder: Path, log: Path | None, tries: int | None, node: str | None
) -> int:
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
                keep_earlier(folder)
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
            node=node,
            started_utc=utc_now(),
            state_saved=saved,
            tries=tries_failed(earlier, saved) if earlier else 0,
        )

        def asked(name: str) -> None:
            nonlocal record
            record = record.model_copy(update={"asked": name})
            write_attempt(folder, record)

        code = 0
        if tries is not None and record.tries >= tries:
            print(f"error: died {record.tries} times without getting further; given up", flush=True)
            commands, code = (), SuiteError.exit_code
        for step, command in enumerate(commands):
            record = record.model_copy(update={"step": step})
            write_attempt(folder, record)
            code = runner.run(command, asked)
            if code:
                break
        ended = {"ended_utc": utc_now(), "exit_code": code, "asked": runner.asked}
        if code == 128 + signal.SIGKILL and memory_kills is not None:
            ended["memory_ran_out"] = (_memory_kills() or 0) > memory_kills
        write_attempt(folder, record.model_copy(update=ended))
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
        reported = False
        while True:
            with suppress(subprocess.TimeoutExpired):
                return child.wait(timeout=SIGNAL_LATENCY_S)
            if self.asked is not None and not reported:
                reported = True
                with suppress(StorageError):  # it is recorded again at the end
                    tell(self.asked)
