"""A `podman run` that hears what SLURM says: `python -P -m mspipeline.slurm.on_node.podman podman run ...`.

SLURM sends CONT and TERM to every process of a job at once. `podman run` passes each signal on through a helper,
`runc kill`, which the same TERM ends; from then on it passes nothing on and dies itself, and its container, which is
no child of the job, works on beside the cell's next attempt. (Seen with Podman 4.3: every second requeue.)

So the container is started detached, with the job's own output, and signals go straight to its first process.

PMI-2, by which srun and mpirun introduce ranks to each other, speaks through a file that is open in each rank. Podman
closes all but those that it is asked to keep, which it counts from 3: there that file is put.
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

from mspipeline.campaigns.run_commands import SIGNALS

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


def with_pmi(command: Sequence[str], descriptor: int) -> list[str]:
    """The `podman run ...` whose container has this open file as its number 3. Run it with the file passed on.

    >>> with_pmi(["podman", "run", "--env", "PMI_FD=13", "app:1"], 13)[-6:]
    ['podman', 'run', '--preserve-fds=1', '--env', 'PMI_FD=3', 'app:1']
    """
    moved = ["PMI_FD=3" if word == f"PMI_FD={descriptor}" else word for word in command[2:]]
    opened = ["bash", "-c", f'exec 3<&{descriptor}; exec "$@"', "bash"]
    return [*opened, *command[:2], "--preserve-fds=1", *moved]


def run(command: Sequence[str], name: str, pmi: int | None = None) -> int:
    """Run a container to its end, INT, TERM and USR2 passed on to it; its exit code, 125 where it did not start.

    pmi: an open file of this process that the container is to have.
    """
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
        start = detached(command, str(pidfile), name)
        kept = [] if pmi is None else [pmi]
        for descriptor in kept:
            start = with_pmi(start, descriptor)
        started = subprocess.run(start, stdin=subprocess.DEVNULL, pass_fds=kept, check=False)
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
    rank = " ".join(os.environ.get(name, "0") for name in ("SLURM_PROCID", "PMI_RANK", "OMPI_COMM_WORLD_RANK"))
    mark = hashlib.sha256(f"{folder} {rank}".encode()).hexdigest()[:16]
    pmi = os.environ.get("PMI_FD", "")
    return run(command, f"mspipeline-{mark}", int(pmi) if pmi.isdecimal() and f"PMI_FD={pmi}" in command else None)


if __name__ == "__main__":
    sys.exit(main())
