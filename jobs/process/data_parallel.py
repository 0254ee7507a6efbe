"""The processes of one training: this one's place among them, or all of them started here.

Under `srun --ntasks=N` the place follows from SLURM's variables, else from those that torchrun and its kind set (RANK,
WORLD_SIZE, MASTER_ADDR, MASTER_PORT, LOCAL_RANK). Where nobody has started them, they are started on this machine.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any

from mspipeline.backends.process_group import ALONE, PeersLost, ProcessGroup, free_port
from mspipeline.console import say_error
from mspipeline.errors import ConfigError
from mspipeline.files import nameless_file
from mspipeline.jobs.process.supervise import start_words

PORTS = range(15_000, 30_000)
"""Below those that systems hand out by themselves; a job's follows from its number."""
GRACE_S = 20.0
"""After one has failed, so long the others may take to notice and to say so: TensorFlow's take 10 s."""
LISTEN_S = 2.0
"""How much later than another a process may meet an error that all of them meet."""
LAUNCHED = "MSPIPELINE_LAUNCHED"
"""Set for processes that were started here: who died is stderrs by their parent, once."""


def place(processes: int, environ: Mapping[str, str]) -> ProcessGroup | None:
    """This process's place in a training of `processes`; None where they are still to be started.

    MASTER_ADDR and MASTER_PORT replace the first node's name and the port that follows from the job's number, where
    processes are to meet elsewhere; on one node they meet at its loopback address. Raises ConfigError where another
    number of processes was started.
    """
    if processes == 1:
        return ALONE
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS", 1)
    if tasks > 1:
        _check(tasks, processes, f"SLURM started {tasks} tasks; use `srun --ntasks={processes}`")
        rank, local = _number(environ, "SLURM_PROCID", 0), _number(environ, "SLURM_LOCALID", 0)
        nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
        alone = _number(environ, "SLURM_STEP_NUM_NODES", 0) == 1
        host, port = "127.0.0.1" if alone else first_host(nodes), _port(environ)
    elif "WORLD_SIZE" in environ:
        world = _number(environ, "WORLD_SIZE", 1)
        _check(world, processes, f"WORLD_SIZE is {world}; start as many, or unset it")
        rank = _number(environ, "RANK", 0)
        local, host, port = _number(environ, "LOCAL_RANK", rank), "127.0.0.1", PORTS[0]
    else:
        return None
    address = f"{environ.get('MASTER_ADDR') or host}:{_number(environ, 'MASTER_PORT', port)}"
    seen = environ.get("CUDA_VISIBLE_DEVICES")
    return ProcessGroup(rank, processes, address, 0 if seen and "," not in seen else local)


def is_launched() -> bool:
    """Whether this process was started by `start`: who died is then said by its parent, once."""
    return LAUNCHED in os.environ


def require_address(group: ProcessGroup) -> None:
    """Raise ConfigError at once where the address at which the processes meet has no meaning on this machine."""
    host, _, port = group.address.rpartition(":")
    try:
        if group.size > 1:
            socket.getaddrinfo(host, int(port))
    except OSError as error:
        # At the first that ends srun asks the others to: they are to end by this error, too, not by that signal.
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(LISTEN_S)
        signal.signal(signal.SIGTERM, before)
        raise ConfigError(
            f"{group.name} on {socket.gethostname()}: {host!r}, where the processes are to meet, is a name that this "
            f"machine does not know ({error.strerror}); set MASTER_ADDR to an address of that node which the others "
            f"reach (`scontrol show node {host}`: NodeAddr) and start again"
        ) from error


def first_host(nodes: str) -> str:
    """The first node of a SLURM node list.

    >>> first_host("gpu[07-09,12],login1"), first_host("r[0-1]n[3,5]"), first_host("one,two")
    ('gpu07', 'r0n3', 'one')
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first.group() if first else "")


def start(processes: int, command: Callable[[int], Sequence[str]], *, job: str, share_cores: bool) -> int:
    """Start the processes of a training on this machine, wait for all, and give the first failure's exit code.

    command: of each rank. job: its name, for error lines. share_cores: each may use its part of this process's cores.
    INT, TERM and USR2 go to all of them. Where one fails, the others end with it, within GRACE_S. What rank 0 writes on
    stderr is seen at once, what another writes where its failure is the first.
    """
    common = {LAUNCHED: "1", "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    # Where SLURM binds nothing, its number alone says how many cores each has; see threads_for.
    asked = _number(os.environ, "SLURM_CPUS_PER_TASK", 0)
    own = {"SLURM_CPUS_PER_TASK": str(max(1, asked // processes))} if asked else {}
    with ExitStack() as stack:
        stderrs = [None, *(stack.enter_context(nameless_file()) for _ in range(1, processes))]
        children: list[subprocess.Popen[bytes]] = []
        for rank, cores in enumerate(_shares(processes) if share_cores else [None] * processes):
            environ = {**os.environ, **common, **own, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            with _on(cores):
                words = start_words(command(rank))
                children.append(subprocess.Popen(words, env=environ, stderr=stderrs[rank], start_new_session=True))
        try:
            with _passed_on(children):
                failed = _wait(children)
        finally:
            for child in children:
                child.kill()
                child.wait()
        if failed is None:
            return 0
        code = children[failed].returncode
        _say(job, failed, [child.returncode for child in children], stderrs[failed])
        return code if code > 0 else 128 - code


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """The rank that failed first, None where none did; the others are ended where they do not end by themselves."""
    deadline = float("inf")
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        if deadline == float("inf") and any(child.returncode for child in children):
            deadline = time.monotonic() + GRACE_S
        time.sleep(0.02)
    codes = {rank: child.poll() for rank, child in enumerate(children)}
    failed = [(code > 0, code == PeersLost.exit_code, rank) for rank, code in codes.items() if code]
    return min(failed)[2] if failed else None  # one that was killed, or failed for a reason of its own


def _say(job: str, failed: int, codes: Sequence[int], stderr: IO[bytes] | None) -> None:
    """The line of the process that failed, where rank 0 has not printed it."""
    code = codes[failed]
    if code < 0:
        why = "; most often memory ran out" if code == -signal.SIGKILL else ""
        name = signal.Signals(-code).name
        say_error(
            f"{job}: process {failed} of {len(codes)} was ended by {name}{why}; run the same command again to continue"
        )
    elif stderr is not None and codes[0] != code:
        stderr.seek(0)
        sys.stderr.buffer.write(stderr.read()[-4000:])
        sys.stderr.flush()


@contextmanager
def _passed_on(children: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Signals to this process go to all of them."""

    def send(number: int, frame: Any) -> None:
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, send) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shares(processes: int) -> list[set[int]]:
    """The cores of each process; where there are fewer than processes, all share all."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < processes:
        return [set(cores)] * processes
    each = len(cores) // processes
    return [set(cores[rank * each : (rank + 1) * each]) for rank in range(processes)]


@contextmanager
def _on(cores: set[int] | None) -> Iterator[None]:
    """In it, what is started may use these cores."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores or before)
        yield
    finally:
        os.sched_setaffinity(0, before)


def _check(found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise ConfigError(f"the job trains with {wanted} processes, but {what}")


def _port(environ: Mapping[str, str]) -> int:
    """The same on every node of a job's step, another for other jobs on a node."""
    number = _number(environ, "SLURM_JOB_ID", 0) + 101 * _number(environ, "SLURM_STEP_ID", 0)
    return PORTS[number % len(PORTS)]


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name, str(default))
    if not value.isdecimal():
        raise ConfigError(f"environment: {name} is {value!r}, expected a whole number; unset it")
    return int(value)
