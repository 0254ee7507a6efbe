"""What every `srun` and `sbatch` that this project starts has in common: the first words, and what it may not see."""

from __future__ import annotations

from collections.abc import Mapping

OF_ENVIRONMENT = "of-the-environment"
"""As `mpi`: the plugin that the MPI of the job's environment understands. It is put in on the node, which has that."""
_OF_USERS = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")


def srun_words(*, mpi: str | None, cpus: int | None = None) -> list[str]:
    """`srun` with what each of them needs. mpi: plugin, None for the cluster's default. cpus: of each task, None for
    the job's own.

    --export=ALL: under a job that was submitted with less, srun would leave out what modules have set.
    --kill-on-bad-exit=1: where one rank dies, the others would wait for it until the job's time limit.
    --cpus-per-task: since SLURM 22.05 a step does not inherit the job's (https://slurm.schedmd.com/srun.html), and a
    cluster that binds tasks to cores then gives each of them one.

    >>> " ".join(srun_words(mpi="pmi2", cpus=4))
    'srun --export=ALL --kill-on-bad-exit=1 --mpi=pmi2 --cpus-per-task=4'
    """
    plugin = [] if mpi is None else [f"--mpi={mpi}"]
    cores = [] if cpus is None else [f"--cpus-per-task={cpus}"]
    return ["srun", "--export=ALL", "--kill-on-bad-exit=1", *plugin, *cores]


def outside_of_jobs(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what SLURM has set for the job in which this process may run.

    sbatch hands the whole environment on and srun reads its options there: where a sweep is started inside a job of two
    tasks, SLURM_NTASKS=2 would start each cell twice.

    >>> outside_of_jobs({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SRUN_CPUS_PER_TASK": "1", "HOME": "/h"})
    {'HOME': '/h'}
    """
    if "SLURM_JOB_ID" not in environ:
        return dict(environ)
    set_there = ("SLURM_", "SLURMD_", "SRUN_")
    return {name: each for name, each in environ.items() if name in _OF_USERS or not name.startswith(set_there)}
