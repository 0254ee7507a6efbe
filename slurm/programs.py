"""SLURM's programs, asked: their output, or what they say instead, within a time limit."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

SETTINGS = ("SACCT_", "SACCTMGR_", "SCANCEL_", "SCONTROL_", "SINFO_", "SQUEUE_")
"""How the names begin by which people change what the programs show them, or have them ask first.

With SQUEUE_STATES=RUNNING a job that waits would be taken for over, and its cell be run twice.
"""
NOT_HERE = os.strerror(errno.ENOENT)
"""The problem of a program that is not on this machine."""


@dataclass(frozen=True)
class Answer:
    """What a program printed. problem: why it failed, in one line; empty where it went well."""

    output: str
    errors: str
    problem: str = ""


def ask(command: Sequence[str], *, timeout_s: float) -> Answer:
    """Run a SLURM program whose answer is read by this one; a program that does not start or end is a problem too."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            env=program_environment(),
        )
    except subprocess.TimeoutExpired:
        return Answer("", "", f"no answer in {timeout_s:.0f} s")
    except OSError as error:
        return Answer("", "", error.strerror or "cannot be started")
    problem = " ".join((done.stderr or done.stdout).split()) or f"code {done.returncode}" if done.returncode else ""
    return Answer(done.stdout, done.stderr, problem)


def program_environment() -> dict[str, str]:
    """This process's variables without a user's own settings of SLURM's programs."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
