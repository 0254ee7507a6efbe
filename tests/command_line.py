"""The command line as a user meets it: the installed program, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

PROGRAM = Path(sys.executable).with_name("mspipeline")
TIMEOUT_S = 120


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line on stderr, without its `error: `; fails where stderr holds anything else."""
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("error: "), self.stderr
        return lines[0].removeprefix("error: ")


def run(*words: object, cwd: Path | None = None, before: tuple[str, ...] = (), **environment: str) -> Ended:
    """Run `mspipeline WORDS` to its end. before: a program that starts it, with its arguments."""
    done = subprocess.run(
        [*before, str(PROGRAM), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=TIMEOUT_S,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def stopped(*words: object, when: Callable[[], bool], cwd: Path) -> Ended:
    """Run `mspipeline WORDS`, press Ctrl-C when `when` says so, and see that nothing it started is left.

    Ctrl-C is SIGINT to the whole process group, as a terminal sends it.
    """
    with subprocess.Popen(
        [str(PROGRAM), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        start_new_session=True,
    ) as process:
        wait_for(lambda: when() or process.poll() is not None)
        descendants = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    _, left = psutil.wait_procs(descendants, timeout=5)
    assert not left, f"still running: {left}"
    return Ended(process.returncode, stdout, stderr)


def wait_for(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def files_below(folder: Path) -> set[str]:
    """Every file below a folder, by its path in it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """A file system of its own with `kib` KiB of room; skips where none can be mounted."""
    folder.mkdir(parents=True)
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
