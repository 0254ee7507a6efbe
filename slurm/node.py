"""What a job on a SLURM node runs: a cell's commands, in an image where the site has one, and again after a warning.

submitit pickles `run_on_node` with plain words; the image needs no SLURM, because all that asks SLURM is out here.

SLURM puts a job that it preempts, or that somebody requeues, back into the queue itself. It only warns one whose time
ends (USR2), and one that is preempted with a grace time: such a job, still RUNNING when it has saved its state, is put
back from here. submitit would do that too, but only for USR2 and with a pickle that says the job has failed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from mspipeline.config import Strict
from mspipeline.errors import Preempted
from slurm.attempt import run_commands
from slurm.container import Bind, Container, argv, expand, parse_bind, passed

MAX_RESTARTS = 100
"""So often a job is queued again before it is left ended: one that never gets further must end some day."""


class Surroundings(Strict):
    """What the commands of a cell are given, as the site file says.

    folders: the campaign's own, seen inside as outside. read_only: such folders that nothing is written to.
    """

    container: str = "none"
    image: str = ""
    gpu: bool = False
    folders: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    binds: tuple[str, ...] = ()
    scratch: str | None = None
    pass_environment: tuple[str, ...] = ()


def run_on_node(commands: Sequence[Sequence[str]], cell_folder: str, surroundings: Mapping[str, object]) -> int:
    """Run a cell's commands as `run_commands` does, then put the job back into the queue if it was only warned.

    surroundings: fields of Surroundings. Raises ConfigError where they name a variable that the job lacks.
    """
    given = Surroundings.model_validate(surroundings)
    if given.scratch is not None:
        os.environ["TMPDIR"] = expand(given.scratch, os.environ)
        Path(os.environ["TMPDIR"]).mkdir(parents=True, exist_ok=True)
    container = container_of(given, cell_folder, os.environ)
    code = run_commands([argv(container, command) for command in commands], cell_folder)
    if code == Preempted.exit_code:
        _requeue_if_running(os.environ)
    return code


def container_of(given: Surroundings, cell_folder: str, environ: Mapping[str, str]) -> Container:
    """The container of a job, its variables put in. TMPDIR is seen inside where it is outside."""
    if given.container == "none":
        return Container("none")
    binds = [Bind(folder, folder) for folder in given.folders]
    binds += [Bind(folder, folder, read_only=True) for folder in given.read_only]
    binds += [parse_bind(text, environ) for text in given.binds]
    if given.scratch is not None:
        binds.append(Bind(environ["TMPDIR"], environ["TMPDIR"]))
    return Container(
        given.container,
        image=given.image,
        binds=tuple(dict.fromkeys(binds)),
        folder=cell_folder,
        gpu=given.gpu,
        environment=passed(environ, given.pass_environment),
        user=os.getuid(),
        group=os.getgid(),
    )


def _requeue_if_running(environ: Mapping[str, str]) -> None:
    """`scontrol requeue` for a job that nobody is ending: not cancelled, not on its way back to the queue already."""
    job = environ["SLURM_JOB_ID"]
    shown = subprocess.run(["scontrol", "show", "job", "--oneliner", job], capture_output=True, text=True, check=False)
    if "JobState=RUNNING" not in shown.stdout.split():
        return
    if int(environ.get("SLURM_RESTART_COUNT", "0")) >= MAX_RESTARTS:
        print(f"queued again {MAX_RESTARTS} times; `mspipeline resume` starts it once more", flush=True)
        return
    asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    print(f"requeued: {job}" if asked.returncode == 0 else f"not requeued: {asked.stderr.strip()}", flush=True)
