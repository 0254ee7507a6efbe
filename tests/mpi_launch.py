"""`mpirun` beside this environment's Python, as a user starts it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.command_line import TIMEOUT_S, Ended

MPIRUN = Path(sys.executable).with_name("mpirun")
BOUND = {"OMP_NUM_THREADS": "1"}


def require_mpi() -> None:
    """Skip, saying what is missing, where ranks cannot be started."""
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpi4py is not installed: pip install mspipeline[mpi]")
    if not MPIRUN.exists():
        pytest.skip(f"no {MPIRUN}: install the `mpich` wheel beside mpi4py")


def mpirun(ranks: int, *words: object, cwd: Path | None = None, **environment: str) -> Ended:
    """Run `WORDS` on so many ranks to its end."""
    done = subprocess.run(
        [str(MPIRUN), "-n", str(ranks), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **BOUND, **environment},
        timeout=TIMEOUT_S,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@contextmanager
def started(ranks: int, *words: object, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """`WORDS` on so many ranks, in a process group of their own; ended at the end if they have not."""
    with subprocess.Popen(
        [str(MPIRUN), "-n", str(ranks), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, **BOUND},
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def of_rank(mpirun_pid: int, rank: int) -> int:
    """The process of one rank of a running `mpirun`."""
    import psutil

    for child in psutil.Process(mpirun_pid).children(recursive=True):
        if child.environ().get("PMI_RANK") == str(rank) and Path(child.exe()).name.startswith("python"):
            return child.pid
    raise AssertionError(f"no process of rank {rank}")


def shared_memory(pids: list[int]) -> set[Path]:
    """The files in /dev/shm that running ranks use: MPICH leaves them where it is killed."""
    used = set()
    for pid in pids:
        with suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
            used |= {Path(line.split(maxsplit=5)[5]) for line in maps if "/dev/shm/mpich" in line}
    return used
