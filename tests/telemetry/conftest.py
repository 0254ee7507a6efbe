"""Real processes to watch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `python -c SCRIPT ARGUMENT...` in a session of its own, with pipes, and wait for its first line.

    Every process is killed after the test. The script's first act must be to print a line.
    """
    started: list[subprocess.Popen[str]] = []

    def run(script: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline(), "the script printed nothing"
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()
