"""A `podman run` that hears what SLURM says: `python -P -m mspipeline.slurm.inside.podman podman run ...`.

SLURM sends CONT and TERM to every process of a job at once. `podman run` passes each signal on through a helper,
`runc kill`, which the same TERM ends; from then on it passes nothing on and dies itself, and its container, which is
no child of the job, works on beside the cell's next attempt. (Seen with Podman 4.3: every second requeue.)

So the container is started detached, with the job's own output, and signals go straight to its first process.
"""

from __future__ import annotations

import hashlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from mspipeline.slurm.inside.attempt import SIGNALS

TRIES = 20
"""Questions to podman are asked again: the signal that ends the container may end the question too."""
CANNOT_START = 125


def detached(command: Sequence[str], pidfile: str, name: str) -> list[str]:
    """The `podman run ...` of a container, started in the background under a name that an orphan gives up to it.

    >>> detached(["podman", "run", "--rm", "app:1", "true"], "/t/pid", "cell")[:5]
    ['podman', 'run', '--detach', '--log-driver', 'passthrough']
    """
    start, rest = list(command[:2]), [word for word in command[2:3] if word != "--rm"] + list(command[3:])
    return [*start, "--detach", "--log-driver", "passthrough", "--pidfile", pidfile, "--name", name, "--replace", *rest]


def run(command: Sequence[str], name: str) -> int:
    """Run a container to its end, INT, TERM and USR2 passed on to it; its exit code, 125 where it did not start."""
    asked: list[int] = []
    pidfd: int | None = None

    def receive(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)

    for number in SIGNALS:
        signal.signal(number, receive)
    with tempfile.TemporaryDirectory() as folder:
        pidfile = Path(folder) / "pid"
        started = subprocess.run(detached(command, str(pidfile), name), stdin=subprocess.DEVNULL, check=False)
        if started.returncode:
            _podman("rm", "--force", "--ignore", name)
            return CANNOT_START if started.returncode > 0 else 128 - started.returncode
        with suppress(ProcessLookupError):  # it has ended already
            pidfd = os.pidfd_open(int(pidfile.read_text()))
            for early in asked:  # before it was there
                signal.pidfd_send_signal(pidfd, early)
            ended = select.poll()
            ended.register(pidfd, select.POLLIN)
            while not ended.poll(1000):
                pass
    code = _podman("wait", name)
    _podman("rm", "--force", "--ignore", name)
    return int(code) if code.lstrip("-").isdecimal() else CANNOT_START


def _podman(*words: str) -> str:
    """What podman answers, in the end."""
    for _ in range(TRIES):
        done = subprocess.run(["podman", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
        time.sleep(0.2)
    return ""


def main() -> int:
    """Run the command line that was given. The name is that of the folder where it works and of its rank."""
    command = sys.argv[1:]
    folder = command[command.index("--workdir") + 1] if "--workdir" in command else ""
    mark = hashlib.sha256(f"{folder} {os.environ.get('SLURM_PROCID', '0')}".encode()).hexdigest()[:16]
    return run(command, f"mspipeline-{mark}")


if __name__ == "__main__":
    sys.exit(main())
