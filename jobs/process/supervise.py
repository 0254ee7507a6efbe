"""Runs a job as a child and watches it from outside: samples, signals, and how it ended.

The child is in a session of its own, so Ctrl-C in a terminal reaches it once, through here. It dies with its
supervisor, even with one that is killed; what it leaves running when it ends is ended.
"""

from __future__ import annotations

import logging
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

import psutil

from mspipeline.errors import ConfigError, StorageError
from mspipeline.files import write_json
from mspipeline.runs import TelemetryPaths, utc_now
from mspipeline.telemetry.allocation import allocated_cpus
from mspipeline.telemetry.cpu import ProcessTree
from mspipeline.telemetry.gpu import open_gpus
from mspipeline.telemetry.sampler import Sampler
from mspipeline.telemetry.schema import SAMPLES_STREAM, Identity
from mspipeline.telemetry.shard import StreamWriter

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGCONT)
GRACE_S = 5.0

# Runs in the child before the command: PR_SET_PDEATHSIG (prctl 1) is kept over exec. Done here and not in a
# preexec_fn, which Python warns against in a process with threads. Python's own signal settings are undone.
_START = """
import ctypes, os, signal, sys
parent, command = int(sys.argv[1]), sys.argv[2:]
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)
if os.getppid() != parent:
    sys.exit(137)
try:
    os.execvp(command[0], command)
except OSError as error:
    print(f"{command[0]}: cannot be started: {error.strerror}", file=sys.stderr)
    sys.exit(127 if isinstance(error, FileNotFoundError) else 126)
"""


def supervise(
    command: Sequence[str],
    telemetry: TelemetryPaths,
    *,
    run_id: str,
    restart_count: int,
    period_s: float = 0.5,
    rank: int = 0,
    visible_gpus: str | None,
) -> int:
    """Run `command` to its end and return its exit code, 128 + n where signal n ended it.

    Samples go to `telemetry.samples` every `period_s` from the start on, `telemetry.exit` is written at the end.
    INT, TERM, USR1, USR2, HUP and CONT are forwarded to the child alone: what it started is its own to tell. stdin,
    stdout and stderr are the child's. Call it from the main thread.
    Raises TableError where the telemetry folder is used already, StorageError where it cannot be written: both before
    the child starts. Once the child runs, telemetry that fails is logged and the child goes on.
    """
    stream = StreamWriter(telemetry.samples, SAMPLES_STREAM)
    gpus = open_gpus(visible_gpus)
    with _Signals() as signals:
        started_utc, started_ns = utc_now(), time.monotonic_ns()
        start = start_words(command)
        pid = os.posix_spawn(start[0], start, os.environ, setsid=True)
        try:
            own_peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            signals.forward_to(pid)
            tree = ProcessTree(pid, allocated_cpus(os.getpid()))
            sampler = Sampler(stream, tree, gpus, Identity(run_id, restart_count, rank), period_s=period_s)
            sampler.start()
            signals.wait_for(pid)
            ended_utc, ended_ns = utc_now(), time.monotonic_ns()
            sampled = sampler.stop()
            _end_leftovers(tree)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        # Until here the child was kept as a zombie: its last counters could be read and its PID was not given away.
        signals.forward_to(None)
        _, status, usage = os.wait4(pid, 0)
    if gpus and sampled.complete:  # else a reading may hang in the driver, and closing it would hang as well
        gpus.close()
    code = os.waitstatus_to_exitcode(status)
    peaks = [sampled.peak_rss_bytes] if sampled.peak_rss_bytes is not None else []
    # The kernel's peak sees what falls between samples, but of one process, and it starts from ours: over exec it keeps
    # the peak of the process that was forked. Below our own peak it says nothing of the child.
    if usage.ru_maxrss > own_peak_kib:
        peaks.append(usage.ru_maxrss * 1024)
    document = {
        "schema_version": SCHEMA_VERSION,
        "job": telemetry.job,
        "attempt": telemetry.attempt,
        "command": list(command),
        "started_utc": started_utc,
        "ended_utc": ended_utc,
        "started_monotonic_ns": started_ns,
        "ended_monotonic_ns": ended_ns,
        "exit_code": code if code >= 0 else 128 - code,
        "signal": _signal_name(-code) if code < 0 else None,
        "peak_rss_bytes": max(peaks, default=None),
        "samples": sampled.samples,
        "telemetry_complete": sampled.complete,
        "sampler_cpu_seconds": sampled.cpu_seconds,
    }
    _close(stream, telemetry, document)
    return code if code >= 0 else 128 - code


def start_words(command: Sequence[str]) -> list[str]:
    """A command line that dies with this process, even where this one is killed."""
    return [sys.executable, "-I", "-S", "-c", _START, str(os.getpid()), *command]


def visible_gpus(environ: Mapping[str, str]) -> str | None:
    """The GPUs that a job sees, as CUDA reads them; None where nothing is said."""
    return environ.get("CUDA_VISIBLE_DEVICES")


def restart_count(environ: Mapping[str, str]) -> int:
    """How often SLURM has requeued this job; 0 outside SLURM."""
    return _count(environ, "SLURM_RESTART_COUNT")


def rank(environ: Mapping[str, str]) -> int:
    """This process's rank in a SLURM step; 0 outside SLURM."""
    return _count(environ, "SLURM_PROCID")


def _count(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "0")
    if not value.isdecimal():
        raise ConfigError(f"environment: {name} is {value!r}, expected a whole number; unset it outside SLURM")
    return int(value)


class _Signals:
    """Signals that this process receives, passed on to a child, while it waits for that child.

    A signal that was ignored on entry (nohup) stays ignored. One that comes before the child is there is kept for it.
    """

    def __init__(self) -> None:
        self._pid: int | None = None
        self._pending: list[int] = []
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Signals:
        self._awake, self._wake = os.pipe()
        os.set_blocking(self._awake, False)
        os.set_blocking(self._wake, False)
        self._wake_before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in (*FORWARDED, signal.SIGCHLD):
            if number == signal.SIGCHLD or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._forward)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wake_before)
        os.close(self._awake)
        os.close(self._wake)

    def forward_to(self, pid: int | None) -> None:
        """From now on signals go to `pid`, those that came before first; to nobody for None."""
        self._pid = pid
        while self._pending and pid is not None:
            os.kill(pid, self._pending.pop(0))

    def wait_for(self, pid: int) -> None:
        """Return when the child has ended; it stays a zombie.

        A blocking wait would miss a signal that comes just before it, until the child ends: hence the wake-up pipe.
        """
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            select.select([self._awake], [], [], 1.0)
            with suppress(BlockingIOError):
                os.read(self._awake, 4096)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGCHLD:
            return
        if self._pid is None:
            self._pending.append(number)
        else:
            os.kill(self._pid, number)


def _end_leftovers(tree: ProcessTree) -> None:
    """End what outlived the child: TERM, and KILL after the grace time."""
    leftovers = tree.descendants()
    if not leftovers:
        return
    log.warning("processes outlived the job and are ended: %s", ", ".join(str(process.pid) for process in leftovers))
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        deadline = time.monotonic() + GRACE_S
        asked: set[int] = set()
        while (leftovers := tree.descendants()) and time.monotonic() < deadline:
            for process in leftovers:
                if process.pid not in asked:
                    with suppress(psutil.Error, OSError):
                        ask(process)
                    asked.add(process.pid)
            time.sleep(0.02)


def _close(stream: StreamWriter, telemetry: TelemetryPaths, document: dict[str, Any]) -> None:
    """End the stream and write how the attempt ended; a full disk is logged, the child's exit code matters more."""
    for action in (stream.close, lambda: write_json(telemetry.exit, document)):
        try:
            action()
        except StorageError as error:
            log.error("telemetry is incomplete: %s", error)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"SIG{number}"
