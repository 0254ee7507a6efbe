"""How this process was started, and the MPI that its launcher speaks. mpi4py is imported here, when it is needed.

`python -P -m mspipeline.parallel.launchers` by itself names the plugin of srun for the MPI of this environment; as one
of several ranks it joins the others, and rank 0 writes who came: {"ranks": 2, "hosts": [...], "library": "MPICH ..."}.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mspipeline.errors import BackendError

_REMEDY = "`pip install mspipeline[mpi]`, or mpi4py against this machine's MPI, or start one process"
LISTEN_S = 1.0
"""How long other ranks keep still before they end on an error that each of them meets: a launcher ends all at the first
that fails, and rank 0 is to speak."""

LAUNCHERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),  # MPICH's mpirun, Intel MPI, srun --mpi=pmi2
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # srun: only in a step, not in the batch script itself
)

PLUGINS = {"MPICH": "pmi2", "Intel(R) MPI": "pmi2", "MVAPICH": "pmi2", "Open MPI": "pmix"}
"""The plugin of srun that a library understands, by the beginning of its name."""


@dataclass(frozen=True)
class Launch:
    """What a launcher says of this process. by: the variable that told."""

    rank: int
    size: int
    by: str


def launch_of(environ: Mapping[str, str]) -> Launch | None:
    """What an MPI launcher's variables say; None where no launcher started this process."""
    for rank, size in LAUNCHERS:
        if environ.get(rank, "").isdecimal() and environ.get(size, "").isdecimal():
            return Launch(int(environ[rank]), int(environ[size]), rank)
    return None


def communicator(launch: Launch) -> Any:
    """A communicator over all ranks. Raises BackendError on rank 0 where there is none."""
    try:
        return _mpi(launch)
    except BackendError:
        if launch.rank == 0:
            raise
        time.sleep(LISTEN_S)
        raise SystemExit(BackendError.exit_code) from None


def plugin_of(library: str) -> str | None:
    """The plugin of srun for an MPI, by what it says of itself; None for one that is not known.

    >>> plugin_of("Open MPI v4.1.4, package: Debian OpenMPI"), plugin_of("MPICH Version:      5.0.2")
    ('pmix', 'pmi2')
    """
    return next((plugin for name, plugin in PLUGINS.items() if library.startswith(name)), None)


def library_here() -> str:
    """What the MPI under mpi4py says of itself, in one line; it is not started. Raises BackendError where it lacks."""
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: no MPI library is found
        raise BackendError(f"mpi4py cannot be used ({' '.join(str(error).split())}); {_REMEDY}") from error
    return _line_of(MPI.Get_library_version())


def _line_of(version: str) -> str:
    """Name and number of a library: `Open MPI v4.1.4` of a line that goes on with package and revision."""
    return " ".join(version.partition("\n")[0].partition(",")[0].strip(" \0").split())


def _mpi(launch: Launch) -> Any:
    if launch.by == "SLURM_PROCID":
        library = library_here()
        raise BackendError(
            f"srun started {launch.size} processes that cannot talk to each other; add --mpi="
            f"{plugin_of(library) or 'PLUGIN'} to srun for {library} (`srun --mpi=list` shows what it has), or start "
            "one process"
        )
    try:
        with warnings.catch_warnings():  # of another launcher's variables: said below, in one line
            warnings.simplefilter("ignore", RuntimeWarning)
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise BackendError(
            f"started as {launch.size} MPI ranks, but mpi4py cannot be used ({' '.join(str(error).split())}); {_REMEDY}"
        ) from error
    world = MPI.COMM_WORLD
    library = _line_of(MPI.Get_library_version())
    if world.size != launch.size:
        plugin = plugin_of(library)
        with_srun = f", by `srun --mpi={plugin}`" if plugin else ""
        raise BackendError(
            f"started as {launch.size} MPI ranks ({launch.by}), but mpi4py sees {world.size}: it uses another MPI "
            f"({library}) than the launcher; start it with that MPI's mpirun{with_srun}, or install mpi4py against the "
            "launcher's"
        )
    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise BackendError(f"{library} was built without threads, which rank 0 needs; use another MPI, or one process")
    return world.Dup()


def own_cores(comm: Any) -> int:
    """Cores for this rank alone: of each core that it may use, the share that the ranks of its node leave it."""
    from mpi4py import MPI

    mine = os.sched_getaffinity(0)
    everyone = comm.Split_type(MPI.COMM_TYPE_SHARED).allgather(mine)
    share = sum(1 / sum(core in theirs for theirs in everyone) for core in mine)
    return max(1, int(share + 1e-9))


def main() -> int:
    """See the module's docstring. Errors are one line, with BackendError's code."""
    launch = launch_of(os.environ)
    try:
        if launch is None or launch.size == 1:
            print(plugin_of(library_here()) or "")
            return 0
        comm = communicator(launch)
        hosts = comm.gather(os.environ.get("SLURMD_NODENAME", socket.gethostname()), root=0)
        if comm.rank == 0:
            from mpi4py import MPI

            library = _line_of(MPI.Get_library_version())
            print(json.dumps({"ranks": comm.size, "hosts": hosts, "library": library}), flush=True)
    except BackendError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
