"""A private SLURM on this machine: four nodes, a database for accounting, nothing of it left afterwards.

    with start_cluster() as cluster:
        cluster.run("sinfo")

    tests -> keeper -> munged, mariadbd, slurmdbd, slurmctld, slurmd c1 c2 g1 g2 -> jobs

The keeper (cluster_keeper.py) adopts whatever its daemons leave behind and watches the pipe to the tests: when that
closes, however the tests ended, it kills all that descends from it and removes the folder.

Partitions: cpu (c1, c2; the default), urgent (the same nodes; preempts cpu by requeue), gpu_t4 (g1, g2; two pretended
T4 each). Each node offers 4 cores and 4 GiB, whatever the machine has. Ports are free ones of the loopback device.

A strict cluster has what sites differ in by their policy: tasks are bound to their cores, of which a node has those of
this machine, and jobs have to name the wckey that their user has (WCKEY).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.slurm.cluster_keeper import ClusterError, user, which

KEEPER = Path(__file__).with_name("cluster_keeper.py")
PROGRAMS = {
    "sbatch": "slurm-wlm",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "munged": "munge",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
}
MEMORY_DISK = Path("/dev/shm")
MEMORY_DISK_FREE = 2**30
END_S = 60.0


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs. environment: of the programs that use it; nothing else knows of it."""

    root: Path
    keeper: int
    environment: Mapping[str, str]
    tell: Callable[[str], None]

    def run(self, *command: str) -> str:
        """Standard output of a SLURM program on this cluster. Raises ClusterError with what it said where it fails."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def start_again(self, job: str) -> None:
        """Wait until a job is back in the queue, then start it without the delay that SLURM gives it (CRED_S)."""
        ends = time.monotonic() + END_S
        while "PENDING" not in self.run("squeue", "-h", "-j", job, "-o", "%T"):
            if time.monotonic() > ends:
                raise ClusterError(f"job {job} does not come back to the queue")
            time.sleep(0.05)
        # In the second of its requeue, its credential counts as revoked, and a job that cannot start has failed.
        time.sleep(2)
        with suppress(ClusterError):  # it has started by itself
            self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def stop_controller(self) -> None:
        """Kill slurmctld; jobs go on, and nobody answers for them."""
        self.tell("stop slurmctld")

    def start_controller(self) -> None:
        """Start slurmctld again, with the state that it left, and wait until it answers."""
        self.tell("start slurmctld")
        self._wait(lambda: self.run("sinfo", "-h"), "the controller does not answer")

    def kill_node(self, node: str) -> None:
        """End a node as a power cut does: its daemon, its steps and all that runs in them, without a word."""
        theirs = [process for process in psutil.Process(self.keeper).children(recursive=True) if _is_on(process, node)]
        stepds = [each for process in theirs for each in process.parents() if each.name() == "slurmstepd"]
        victims = [*dict.fromkeys(stepds), *theirs]
        for process in victims:  # all stand still before the first dies: none can tell of another
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        self.tell(f"stop slurmd.{node}")
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def start_node(self, node: str) -> None:
        """Start the daemon of a node that was killed and wait until the controller has it back."""
        self.tell(f"start slurmd.{node}")
        asked = ("sinfo", "-h", "-n", node, "-o", "%t")

        def back() -> bool:
            self.resume_nodes()
            return set(self.run(*asked).split()) <= {"idle", "mix", "alloc"}

        self._wait(back, f"{node} does not come back")

    def fail_prologs(self, fail: bool) -> None:
        """Whether from now on no node can start a job."""
        flag = self.root / "prolog-fails"
        flag.touch() if fail else flag.unlink(missing_ok=True)

    def _wait(self, ready: Callable[[], object], problem: str) -> None:
        ends = time.monotonic() + END_S
        while True:
            with suppress(ClusterError):
                if ready():
                    return
            if time.monotonic() > ends:
                raise ClusterError(problem)
            time.sleep(0.1)

    def reset(self) -> None:
        """Cancel every job, wait for the last to go, put every node back to service."""
        self.fail_prologs(False)
        if self.run("squeue", "-h"):
            self.run("scancel", "--user", user())
            ends = time.monotonic() + END_S
            while left := self.run("squeue", "-h"):
                if time.monotonic() > ends:
                    raise ClusterError(f"jobs do not end: {left}")
                time.sleep(0.1)
        self.resume_nodes()

    def resume_nodes(self) -> None:
        """Put every node that is down or drained back to service; one whose daemon answers comes back by itself."""
        for line in self.run("sinfo", "-h", "-N", "-o", "%N %t").splitlines():
            node, state = line.split()
            if state.startswith(("down", "drain", "drng")):
                with suppress(ClusterError):  # it has come back just now
                    self.run("scontrol", "update", f"nodename={node}", "state=resume")


def missing_packages() -> list[str]:
    """Debian packages that would have to be installed; empty where a cluster can be started."""
    return sorted({package for program, package in PROGRAMS.items() if which(program) is None})


@contextmanager
def start_cluster(*, strict: bool = False) -> Iterator[Cluster]:
    """A cluster whose nodes are idle, for as long as the block lasts. Raises ClusterError where it does not start."""
    root = Path(tempfile.mkdtemp(prefix="mspipeline-slurm-", dir=_disk()))
    keeper = subprocess.Popen(
        [sys.executable, str(KEEPER), str(root), *(["strict"] if strict else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        answer = json.loads(keeper.stdout.readline() or '{"error": "its keeper was killed"}')
        if "error" in answer:
            raise ClusterError(f"no private SLURM could be started: {answer['error']}")

        def tell(line: str) -> None:
            keeper.stdin.write(f"{line}\n".encode())
            keeper.stdin.flush()
            if not keeper.stdout.readline():
                raise ClusterError(f"the keeper could not {line}")

        yield Cluster(root, keeper.pid, {"SLURM_CONF": str(root / "slurm.conf")}, tell)
    finally:
        keeper.stdin.close()
        keeper.stdout.close()
        keeper.wait(END_S)


def _is_on(process: psutil.Process, node: str) -> bool:
    """Whether a process belongs to a job on this node."""
    try:
        return process.environ().get("SLURMD_NODENAME") == node
    except psutil.Error:
        return False


def _disk() -> Path | None:
    """Where its files go: memory where there is room, which spares the database's waits for a disk."""
    roomy = MEMORY_DISK.is_dir() and shutil.disk_usage(MEMORY_DISK).free > MEMORY_DISK_FREE
    return MEMORY_DISK if roomy and os.access(MEMORY_DISK, os.W_OK) else None
