"""Programs that work on images for minutes: what they print is passed on, how they end is one line."""

from __future__ import annotations

import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from mspipeline.errors import ConfigError, StorageError

FULL = ("no space left on device", "disk quota exceeded")
LAST_LINES = 40
Say = Callable[[str], None]


def run_program(command: Sequence[str], say: Say, *, what: str, folder: Path | None = None) -> list[str]:
    """Run a program, each line of it passed on to `say`; its last lines.

    what: words for the error line. Raises StorageError where the disk is full, ConfigError with the program's last
    words where it fails otherwise.
    """
    last: deque[str] = deque(maxlen=LAST_LINES)
    with subprocess.Popen(
        list(command),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            last.append(line.rstrip())
            say(line.rstrip())
    if process.returncode == 0:
        return list(last)
    full = next((line for line in last if any(word in line.lower() for word in FULL)), None)
    if full is not None:
        raise StorageError(f"{what}: no room ({last_words([full])}); free some, or move {command[0]}'s store")
    raise ConfigError(f"{what}: {command[0]} ended with code {process.returncode}: {last_words(list(last))}")


def last_words(lines: Sequence[str]) -> str:
    """What a program said last, in one line."""
    return next((" ".join(line.split())[:300] for line in reversed(lines) if line.strip()), "no message")
