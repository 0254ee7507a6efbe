"""The keeper of a private SLURM: writes its files, starts its daemons, ends them. See cluster.py.

cluster_keeper.py ROOT [strict]: writes {"ready": true} or {"error": "..."} on its standard output, then waits for the
end of its standard input. Then, or at TERM, it kills all that descends from it and removes ROOT. Lines on its standard
input: `stop NAME` kills a daemon (slurmctld, slurmd.c1), `start NAME` starts it again; each is answered by a line.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin")  # not on every user's PATH
NODES = {"c1": "", "c2": "", "g1": "Gres=gpu:t4:2", "g2": "Gres=gpu:t4:2"}
PORTS = range(20000, 32000)  # below those that the kernel hands out by itself
START_S = 120.0
TRIES = 3
PR_SET_CHILD_SUBREAPER = 36
CRED_S = 10
"""A requeued job waits a little longer than this before it starts again; a launch that takes longer is refused."""

SLURM_CONF = """\
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/run/munge.socket,cred_expire={cred_s}
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
TmpFS={root}/tmp/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
{task_plugin}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=512
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,batch_sched_delay=0,sched_min_interval=0
PriorityType=priority/multifactor
Prolog={root}/prolog
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
MaxArraySize=20001
MaxJobCount=50000
KillWait=10
OverTimeLimit=0
# A busy machine answers late; a node that is down is said so by `scontrol update`.
MessageTimeout=60
TCPTimeout=20
BatchStartTimeout=60
SlurmdTimeout=300
SlurmctldTimeout=300
MinJobAge=300
UnkillableStepTimeout=60
InactiveLimit=0
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={database_daemon_port}
AccountingStoragePass={root}/run/munge.socket
AccountingStorageTRES=gres/gpu,gres/gpu:t4
{accounting}
GresTypes=gpu
NodeName=DEFAULT Sockets=1 ThreadsPerCore=1 CoresPerSocket={cores} RealMemory=4096 State=UNKNOWN
{nodes}
PartitionName=DEFAULT MaxTime=INFINITE DefaultTime=10 State=UP
PartitionName=cpu Nodes=c1,c2 Default=YES PriorityTier=1
PartitionName=urgent Nodes=c1,c2 PriorityTier=10 PreemptMode=OFF
PartitionName=gpu_t4 Nodes=g1,g2 PriorityTier=1
"""
BINDING = "TaskPlugin=task/affinity\nTaskPluginParam=Cores"
ENFORCED = "TrackWCKey=yes\nAccountingStorageEnforce=associations,wckeys"
WCKEY = "theirs"
"""What a job on the strict cluster has to name: its user has no other and no default."""
PROLOG = """\
#!/bin/sh
[ ! -e {root}/prolog-fails ]
"""
SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={root}/run/munge.socket
CommunicationParameters=NoInAddrAny
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={database_daemon_port}
SlurmUser={user}
LogFile={root}/log/slurmdbd.log
PidFile={root}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=throwaway
{database_options}
"""
MARIADB_CONF = """\
[mariadbd]
datadir={root}/database
socket={root}/run/database.socket
pid-file={root}/run/database.pid
log-error={root}/log/database.log
skip-networking
skip-name-resolve
skip-log-bin
innodb-buffer-pool-size=32M
innodb-log-file-size=16M
innodb-flush-log-at-trx-commit=0
innodb-doublewrite=0
innodb-use-native-aio=0
innodb-lock-wait-timeout=900
performance-schema=OFF
"""


class ClusterError(Exception):
    """The cluster did not start, with the last lines of the log that says why."""


def which(program: str) -> str | None:
    """Where a program is; the administrator's folders are searched too."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), *SBIN]))


def user() -> str:
    """The user who runs all of it."""
    return pwd.getpwuid(os.getuid()).pw_name


class Keeper:
    """Daemons in one folder, all of them descendants of this process. strict: see cluster.py."""

    def __init__(self, root: Path, *, strict: bool = False) -> None:
        self._root = root
        self._strict = strict
        self._conf = root / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start all and wait until every node is idle and accounting knows the cluster. Raises ClusterError."""
        self._write_files()
        self._start("munged", "--foreground", *self._munge_options())
        subprocess.run(
            [str(which("mariadb-install-db")), f"--defaults-file={self._root}/database.conf", "--skip-test-db",
             "--auth-root-authentication-method=normal", *self._as_root()],
            check=True, capture_output=True,
        )  # fmt: skip
        self._start("mariadbd", f"--defaults-file={self._root}/database.conf", *self._as_root())
        self._wait("mariadbd", lambda: _answers(str(self._root / "run/database.socket")))
        self._wait("munged", lambda: _answers(str(self._root / "run/munge.socket")))
        self._start("slurmdbd", "-D")
        self._wait("slurmdbd", lambda: _answers(self._database_daemon_port))
        self._start("slurmctld", "-D", "-c")
        for node in NODES:
            self.start_again(f"slurmd.{node}")
        self._wait("slurmctld", self._idle)
        self._wait("slurmdbd", self._known)
        if self._strict:
            asked = ["sacctmgr", "-i", "add", "user", user(), "account=root", f"wckey={WCKEY}"]
            self._wait(
                "slurmdbd", lambda: WCKEY in self._asked(*asked) + self._asked("sacctmgr", "show", "wckey", "-nP")
            )

    def stop(self, name: str) -> None:
        """Kill one daemon; what it started lives on."""
        self._daemons[name].kill()
        self._daemons[name].wait()

    def start_again(self, name: str) -> None:
        """Start slurmctld, with the state that it left, or a node's slurmd."""
        program, _, node = name.partition(".")
        self._start(program, "-D", *(["-N", node] if node else []), name=name)

    def alive(self) -> bool:
        """Whether no daemon has ended."""
        return all(daemon.poll() is None for daemon in self._daemons.values())

    def end(self) -> None:
        """Kill everything that descends from this process, again until nothing is left, and remove the folder."""
        me = psutil.Process()
        ends = time.monotonic() + 30
        while (left := me.children(recursive=True)) and time.monotonic() < ends:
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            time.sleep(0.01)
        self._daemons.clear()
        shutil.rmtree(self._root, ignore_errors=True)

    def _write_files(self) -> None:
        for folder in (
            "run",
            "state",
            "log",
            "database",
            "dev",
            *(f"{kind}/{n}" for n in NODES for kind in ("tmp", "spool")),
        ):
            (self._root / folder).mkdir(parents=True)
        self._root.chmod(0o755)
        controller_port, self._database_daemon_port, *node_ports = _free_ports(2 + len(NODES))
        host = socket.gethostname().split(".")[0]
        # Any character device will do for a GPU that is never opened; these are there for every user.
        devices = [Path("/dev/null"), Path("/dev/zero")]
        values = {
            "root": self._root,
            "host": host,
            "user": user(),
            "cred_s": CRED_S,
            "controller_port": controller_port,
            "database_daemon_port": self._database_daemon_port,
            # Cores that are not there cannot be bound to, so a node that binds has those of this machine.
            "cores": len(os.sched_getaffinity(0)) if self._strict else 4,
            "task_plugin": BINDING if self._strict else "TaskPlugin=task/none",
            "accounting": ENFORCED if self._strict else "",
            "database_options": "TrackWCKey=yes" if self._strict else "",
            "nodes": "\n".join(
                f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} Features=on-{name} {gres}"
                for (name, gres), port in zip(NODES.items(), node_ports, strict=True)
            ),
        }
        self._conf.write_text(SLURM_CONF.format(**values))
        prolog = self._root / "prolog"
        prolog.write_text(PROLOG.format(**values))
        prolog.chmod(0o755)
        gpu_nodes = ",".join(name for name, gres in NODES.items() if gres)
        gres = [f"NodeName={gpu_nodes} Name=gpu Type=t4 File={device}" for device in devices]
        (self._root / "gres.conf").write_text("\n".join(gres) + "\n")
        for name, text in (("slurmdbd.conf", SLURMDBD_CONF), ("database.conf", MARIADB_CONF)):
            (self._root / name).write_text(text.format(**values))
            (self._root / name).chmod(0o600)
        key = self._root / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)

    def _munge_options(self) -> list[str]:
        run = self._root / "run"
        files = {"key": self._root / "munge.key", "socket": run / "munge.socket", "pid": run / "munge.pid"}
        files |= {"log": self._root / "log" / "munged.log", "seed": run / "munge.seed"}
        return [
            "--force",
            f"--socket={files['socket']}",
            *(f"--{name}-file={files[name]}" for name in ("key", "pid", "log", "seed")),
        ]

    def _as_root(self) -> list[str]:
        """MariaDB refuses to run as root unless it is told to."""
        return ["--user=root"] if os.getuid() == 0 else []

    def _start(self, program: str, *arguments: str, name: str = "") -> None:
        with (self._root / "log" / f"{name or program}.out").open("wb") as output:
            self._daemons[name or program] = subprocess.Popen(
                [str(which(program)), *arguments],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def _environment(self) -> dict[str, str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        return {
            **outside,
            "SLURM_CONF": str(self._conf),
            "MYSQL_UNIX_PORT": str(self._root / "run/database.socket"),
        }

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        ends = time.monotonic() + START_S
        while not ready():
            dead = [each for each, daemon in self._daemons.items() if daemon.poll() is not None]
            if dead or time.monotonic() > ends:
                why = f"{dead[0]} ended" if dead else f"{name} was not ready after {START_S:.0f} s"
                raise ClusterError(f"{why}: {self._last_words(dead[0] if dead else name)}")
            time.sleep(0.02)

    def _last_words(self, name: str) -> str:
        """The end of a daemon's logs, on one line."""
        stem = {"mariadbd": "database"}.get(name, name)
        files = [self._root / "log" / f"{stem}.log", self._root / "log" / f"{name}.out"]
        lines = [line for file in files if file.exists() for line in file.read_text(errors="replace").splitlines()]
        return " | ".join(lines[-8:])

    def _asked(self, *command: str) -> str:
        """What a SLURM program says; nothing where it fails, which it does while the cluster starts."""
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False)
        return "" if done.returncode else done.stdout

    def _idle(self) -> bool:
        found = dict(line.split() for line in self._asked("sinfo", "-h", "-N", "-o", "%N %t").splitlines())
        return set(found) == set(NODES) and set(found.values()) == {"idle"}

    def _known(self) -> bool:
        """Whether accounting has the cluster with the controller's port: from then on it records jobs."""
        line = self._asked("sacctmgr", "-nP", "show", "cluster", "format=cluster,controlport").strip()
        return line.startswith("throwaway|") and not line.endswith("|0")


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback device that nobody listens at. Drawn by chance: two clusters start at one time."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise ClusterError(f"no {count} free ports between {PORTS.start} and {PORTS.stop}")


def _answers(address: str | int) -> bool:
    """Whether somebody listens at a socket's path or a loopback port."""
    family, where = (socket.AF_UNIX, address) if isinstance(address, str) else (socket.AF_INET, ("127.0.0.1", address))
    with socket.socket(family) as probe:
        return probe.connect_ex(where) == 0


def main() -> int:
    """Start, say so, wait for the end of standard input, end."""
    root = Path(sys.argv[1])
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keeper = Keeper(root, strict="strict" in sys.argv[2:])
    try:
        for left in reversed(range(TRIES)):
            try:
                keeper.start()
                answer: dict[str, object] = {"ready": True}
                break
            except (ClusterError, OSError, subprocess.CalledProcessError) as error:
                answer = {"error": str(error)}
                keeper.end()
                if left:
                    root.mkdir(mode=0o755)
        print(json.dumps(answer), flush=True)
        if "ready" in answer:
            for line in sys.stdin:
                what, name = line.split()
                (keeper.stop if what == "stop" else keeper.start_again)(name)
                print(json.dumps({"done": line.strip()}), flush=True)
    finally:
        keeper.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
