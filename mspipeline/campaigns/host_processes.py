"""Processes of this host, found again by number and start time, and the trees that hang from them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

_CLOCK_TOLERANCE_S = 2.0  # start times are relative to a boot time that the clock's corrections move a little


def created(pid: int | None) -> float | None:
    """When a process started, in seconds since 1970; now where it has ended already, None where there is no number."""
    if pid is None:
        return None
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return time.time()


def find(pid: int | None, started: float | None) -> psutil.Process | None:
    """The live process with this number, if it is the one that started then; a zombie counts as ended."""
    if pid is None or started is None or not _same(pid, started):
        return None
    with suppress(psutil.NoSuchProcess):
        return next(iter(_alive([psutil.Process(pid)])), None)
    return None


def tree(pid: int | None, started: float | None) -> list[psutil.Process]:
    """A live process and all its descendants; empty where it has ended."""
    root = find(pid, started)
    return [] if root is None else _with_descendants([root])


def session(leader: int, started: float) -> list[psutil.Process]:
    """Live processes in the session that `leader` opened, and their descendants; they can outlive the leader."""
    if psutil.pid_exists(leader) and not _same(leader, started):
        return []  # the number belongs to a stranger, which it can only once that session is over
    members = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if os.getsid(pid) == leader:
                members.append(psutil.Process(pid))
    return _with_descendants(members)


def parent(process: psutil.Process) -> int | None:
    """Number of a process's parent; None where the process has ended."""
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return None


def _same(pid: int, started: float) -> bool:
    try:
        return abs(psutil.Process(pid).create_time() - started) < _CLOCK_TOLERANCE_S
    except psutil.NoSuchProcess:
        return False


def _with_descendants(roots: Iterable[psutil.Process]) -> list[psutil.Process]:
    found = {}
    for root in roots:
        with suppress(psutil.NoSuchProcess):
            found.update({process.pid: process for process in [root, *root.children(recursive=True)]})
    return _alive(found.values())


def _alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
