"""What the system tells of a process, asked so that a refusal is None and only a process that is gone raises."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

log = logging.getLogger(__name__)

T = TypeVar("T")

UNREADABLE = (psutil.Error, OSError, ValueError, LookupError, RuntimeError)
"""What psutil lets through where /proc forbids, fails (EIO), or holds something that it cannot parse."""


def ask(question: Callable[[], T]) -> T | None:
    """An answer of psutil's, None where the system refuses it. Raises psutil.NoSuchProcess where the process is gone.

    A process that became a zombie meanwhile is still there, although psutil's ZombieProcess is a NoSuchProcess.
    """
    try:
        return question()
    except psutil.ZombieProcess:
        return None
    except psutil.NoSuchProcess:
        raise
    except UNREADABLE as error:
        log.debug("no reading from the system: %s", error)
        return None


def proportional_set_bytes(pid: int) -> int | None:
    """PSS of one process: 0 where it is gone, None where it is not ours to read or the kernel is older than 4.14."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_bytes()
        return sum(1024 * int(line.split()[1]) for line in rollup.splitlines() if line.startswith(b"Pss:"))
    except OSError:
        return None if psutil.pid_exists(pid) else 0
    except (ValueError, IndexError):
        return None
