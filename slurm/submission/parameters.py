"""What a job asks of its site, in submitit's words, and the batch script that comes of it."""

from __future__ import annotations

import math
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import submitit

from mspipeline.campaigns.job_shape import PLAIN, After, JobShape
from mspipeline.campaigns.site import Partition, Site
from mspipeline.slurm.site_rules import sbatch_of, setup_lines
from mspipeline.slurm.srun import srun_words

DEPENDENCIES = {"succeeded": "afterok", "same_succeeded": "aftercorr", "ended": "afterany"}

_SRUN_CORES = 'export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"'


def runs_without_srun(shape: JobShape) -> bool:
    """Whether the batch script itself runs the cells, so that srun is free for their processes and adds no message."""
    return shape.tasks > 1 or shape.propagates_exit_code


def dependency(after: After) -> str:
    """Jobs to wait for in sbatch's words. Of an array, the whole is named.

    >>> dependency(After("ended", ("12_0", "12_1", "13")))
    'afterany:12:13'
    """
    bases = dict.fromkeys(job.partition("_")[0] for job in after.jobs)
    return f"{DEPENDENCIES[after.condition]}:{':'.join(bases)}"


def python_words(shape: JobShape) -> str:
    """How a job starts Python. exec: the batch script's shell would die of the TERM that the cell is to answer."""
    return f"{'exec ' if runs_without_srun(shape) else ''}{shlex.quote(sys.executable)} -P"


def parameters(
    site: Site,
    name: str,
    partition_name: str,
    partition: Partition,
    count: int = 1,
    shape: JobShape = PLAIN,
) -> dict[str, Any]:
    """What submitit's SLURM executor is given for `count` jobs of one shape."""
    without_srun = runs_without_srun(shape)
    partition = shape.of(partition)
    at_once = max(1, site.max_parallel // shape.pack) if site.max_parallel else count
    cpus = partition.cpus and partition.cpus * shape.pack
    asked: dict[str, Any] = {
        "job_name": name,
        "stderr_to_stdout": True,
        "partition": partition_name,
        "time": partition.time_min,
        "cpus_per_task": cpus,
        "mem": partition.mem_gb and f"{math.ceil(partition.mem_gb * shape.pack * 1024)}M",
        "gres": partition.gres,
        "account": partition.account or site.account,
        "qos": partition.qos or site.qos,
        "signal_delay_s": site.warn_s,
        "setup": [*setup_lines(site), *_core_lines(shape)],
        "array_parallelism": min(count, at_once) if count > 1 else None,
        "dependency": shape.after and dependency(shape.after),
        "use_srun": False if without_srun else None,
        # --ntasks: a sweep that is started inside a job of several tasks would start each cell as often.
        "srun_args": None if without_srun else [*srun_words(mpi="none", cpus=cpus)[1:], "--ntasks=1"],
    }
    more: dict[str, Any] = {"requeue": True}  # without it, a site whose JobRequeue is 0 ends a preempted cell for good
    if shape.after:
        more["kill-on-invalid-dep"] = "yes"  # else a job whose predecessor failed waits for ever
    if without_srun:
        more["signal"] = f"B:USR2@{site.warn_s}"
    if shape.tasks > 1:
        more.update(_tasks(partition, shape.tasks))
        if partition.mem_gb and partition.cpus:
            del asked["mem"]  # of a node, and how many tasks share one is SLURM's choice
            asked["mem_per_cpu"] = f"{math.ceil(partition.mem_gb * 1024 / partition.cpus)}M"
    asked["additional_parameters"] = {**more, **sbatch_of(site, partition)}
    # wckey: submitit names one of its own where it is not given None, and a cluster that enforces them refuses that.
    return {**{key: value for key, value in asked.items() if value is not None}, "wckey": None}


def _core_lines(shape: JobShape) -> list[str]:
    """Lines of a batch script by which each srun below it gives its tasks the cores that the job asked for.

    Where nobody asked, a job of one task has all that it was given.
    """
    if shape.tasks == 1:
        return ['export SLURM_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}"', _SRUN_CORES]
    return [f'[ -z "${{SLURM_CPUS_PER_TASK:-}}" ] || {_SRUN_CORES}']


def _tasks(partition: Partition, tasks: int) -> dict[str, Any]:
    """How the processes of one cell lie on nodes: where there are GPUs, one process a GPU, whose number is a node's."""
    gpus = [word.split(":") for word in (partition.gres or "").split(",") if word.split(":")[0] == "gpu"]
    if not gpus:
        return {"ntasks": tasks, "nodes": f"1-{tasks}"}
    each = int(gpus[0][-1]) if gpus[0][-1].isdecimal() else 1
    return {"ntasks": tasks, "nodes": math.ceil(tasks / each), "ntasks-per-node": min(each, tasks)}


def batch_script(
    site: Site,
    device: str,
    count: int,
    logs: Path,
    *,
    name: str,
    shape: JobShape = PLAIN,
) -> str:
    """The script that `submit_cells` would give to sbatch for `count` cells; needs no SLURM, writes nothing."""
    partition_name, partition = site.partition_for(device)
    jobs = math.ceil(count / shape.pack)
    executor = _Writer(logs, python=python_words(shape))
    executor.update_parameters(**parameters(site, name, partition_name, partition, jobs, shape))
    if jobs > 1:
        executor.parameters["map_count"] = jobs
    text = str(executor._make_submission_file_text(executor._submitit_command_str, "dry-run"))
    # submitit asks for 5 minutes where nobody says; a submission asks the partition what it gives.
    return text if partition.time_min is not None else re.sub(r"#SBATCH --time=\d+\n", "", text)


class _Writer(submitit.SlurmExecutor):  # type: ignore[misc]
    """Writes submitit's batch scripts where there is no SLURM either."""

    @classmethod
    def affinity(cls) -> int:
        return 1
