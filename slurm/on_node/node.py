"""What a job on a SLURM node runs: a cell's commands, in an image where the site has one, and again after a warning.

submitit pickles `run_on_node` with plain words; the image needs no SLURM, because all that asks SLURM is out here.

SLURM puts a job that it preempts, or that somebody requeues, back into the queue itself. It only warns one whose time
ends (USR2), and one that is preempted with a grace time: such a job, still RUNNING when it has saved its state, is put
back from here. submitit would do that too, but only for USR2 and with a pickle that says the job has failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mspipeline.campaigns.run_commands import run_commands
from mspipeline.config import Strict
from mspipeline.containers.container import Bind, Container, argv, expand, parse_bind, passed
from mspipeline.containers.image_facts import commit_of, digest_of, look_into
from mspipeline.errors import ConfigError, Preempted
from mspipeline.slurm.programs import Answer, ask
from mspipeline.slurm.srun import OF_ENVIRONMENT

DIGEST = "MSPIPELINE_IMAGE_DIGEST"
COMMIT = "MSPIPELINE_COMMIT"
"""What the job `train` reads for the provenance of a run."""
MAX_RESTARTS = 100
"""How many times a job is queued again before it is left ended: one without progress must end some day."""


ANSWER_S = 60.0
"""How long an answer is asked for; the time limit that the job was warned of ends the job anyway."""
ONE_ANSWER_S = 120.0
"""Timeout for one answer: SLURM's programs try for a minute or more by themselves."""
_PAUSE_S = 2.0
_SILENT = (
    "Unable to contact slurm controller",
    "Socket timed out",
    "Connection refused",
    "Zero Bytes were transmitted",
)


class NodeEnvironment(Strict):
    """What the commands of a cell are given, as the site file says.

    folders: the campaign's own, seen inside as outside. read_only: such folders that nothing is written to.
    image_digest, image_commit: for the rows' provenance; asked of the runtime on the node where None.
    launchers: of each command, what starts its processes, on the host; empty for a command that is one process.
    on_host: numbers of the commands that run outside of the image, where SLURM can be asked.
    tries: see run_commands; SLURM itself puts back a job whose node died, for ever if it is left to it.
    """

    container: str = "none"
    image: str = ""
    image_digest: str | None = None
    image_commit: str | None = None
    gpu: bool = False
    folders: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    binds: tuple[str, ...] = ()
    scratch: str | None = None
    pass_environment: tuple[str, ...] = ()
    launchers: tuple[tuple[str, ...], ...] = ()
    on_host: tuple[int, ...] = ()
    tries: int | None = None


def run_on_node(commands: Sequence[Sequence[str]], cell_folder: str, environment: Mapping[str, object]) -> int:
    """Run a cell's commands as `run_inside` does, then put the job back into the queue if it was only warned."""
    code = run_inside(commands, cell_folder, environment)
    if code == Preempted.exit_code:
        requeue_if_running(os.environ)
    return code


def run_inside(
    commands: Sequence[Sequence[str]], cell_folder: str, environment: Mapping[str, object], log: Path | None = None
) -> int:
    """Run a cell's commands as `run_commands` does, in the image that the site has for them.

    environment: fields of NodeEnvironment. Raises ConfigError where they name a variable that the job lacks.
    """
    given = NodeEnvironment.model_validate(environment)
    if given.scratch is not None:
        os.environ["TMPDIR"] = expand(given.scratch, os.environ)
        Path(os.environ["TMPDIR"]).mkdir(parents=True, exist_ok=True)
    lines = command_lines(commands, cell_folder, given)
    refusal = _refusal(given)
    if refusal:
        lines = [line if number in given.on_host else refusal for number, line in enumerate(lines)]
    return run_commands(lines, cell_folder, log, given.tries, os.environ.get("SLURMD_NODENAME"))


def command_lines(commands: Sequence[Sequence[str]], cell_folder: str, given: NodeEnvironment) -> list[list[str]]:
    """The commands as they run in this job: behind their launchers, in the site's image."""
    container = container_of(given, cell_folder, os.environ)
    several = given.container != "none"  # ranks differ in their variables, so each enters the image by itself
    lines = []
    for number, (start, line) in enumerate(zip(given.launchers or ((),) * len(commands), commands, strict=True)):
        if number in given.on_host:
            lines.append([*start, *line])
            continue
        enter = _enter(given, cell_folder, line) if start and several else _line(container, line)
        lines.append([*_with_plugin(start, container, line[0]), *enter])
    return lines


def _with_plugin(start: Sequence[str], container: Container, python: str) -> list[str]:
    """A launcher's words, srun's plugin put in where it is to follow from the MPI there; the cluster's own if none."""
    word = f"--mpi={OF_ENVIRONMENT}"
    if word not in start:
        return list(start)
    asks = _line(container, [python, "-P", "-m", "mspipeline.parallel.launchers"])
    asked = subprocess.run(asks, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    plugin = asked.stdout.strip() if asked.returncode == 0 else ""
    return [f"--mpi={plugin}" if each == word else each for each in start if plugin or each != word]


def _refusal(given: NodeEnvironment) -> list[str]:
    """What runs instead of each command in an image that this machine lacks; Docker and Podman keep theirs on each."""
    if given.container not in ("docker", "podman"):
        return []
    try:
        look_into(given.container, given.image)
    except ConfigError as error:
        says = 'echo "error: $1"; exit "$2"'
        return ["sh", "-c", says, "sh", f"{os.uname().nodename}: {error}", str(error.exit_code)]
    return []


def _line(container: Container, command: Sequence[str]) -> list[str]:
    """The command line as it runs in a job, where Podman needs help with signals."""
    line = argv(container, command)
    helped = [sys.executable, "-P", "-m", "mspipeline.slurm.on_node.podman"] if container.runtime == "podman" else []
    return [*helped, *line]


def _enter(given: NodeEnvironment, cell_folder: str, command: Sequence[str]) -> list[str]:
    """The command line of one rank outside of the image: `main`, which has that rank's variables."""
    document = given.model_dump_json(exclude={"launchers"})
    return [sys.executable, "-P", "-m", "mspipeline.slurm.on_node.node", document, cell_folder, *command]


def container_of(given: NodeEnvironment, cell_folder: str, environ: Mapping[str, str]) -> Container:
    """The container of a job, its variables put in. TMPDIR is seen inside where it is outside."""
    if given.container == "none":
        return Container("none")
    binds = [Bind(folder, folder) for folder in given.folders]
    binds += [Bind(folder, folder, read_only=True) for folder in given.read_only]
    binds += [parse_bind(text, environ) for text in given.binds]
    temporary = environ.get("TMPDIR", "")
    if given.scratch is not None or Path(temporary or "/nowhere").is_dir():
        binds.append(Bind(temporary, temporary))
    origin = {
        DIGEST: given.image_digest or digest_of(given.container, given.image),
        COMMIT: given.image_commit or commit_of(given.container, given.image),
    }
    memory = environ.get("SLURM_MEM_PER_NODE", "")
    return Container(
        given.container,
        image=given.image,
        binds=tuple(dict.fromkeys(binds)),
        folder=cell_folder,
        gpu=given.gpu,
        environment={
            **passed(environ, given.pass_environment),
            **{name: value for name, value in origin.items() if value},
        },
        user=os.getuid(),
        group=os.getgid(),
        cores=tuple(sorted(os.sched_getaffinity(0))),
        memory_mib=int(memory) if memory.isdecimal() and memory != "0" else None,
    )


def requeue_if_running(environ: Mapping[str, str]) -> None:
    """`scontrol requeue` for a job that nobody is ending: not cancelled, not on its way back to the queue already."""
    job = environ["SLURM_JOB_ID"]
    shown = _answer(["scontrol", "show", "job", "--oneliner", job])
    if not shown.problem and "JobState=RUNNING" not in shown.output.split():
        return
    if int(environ.get("SLURM_RESTART_COUNT", "0")) >= MAX_RESTARTS:
        print(f"queued again {MAX_RESTARTS} times; `mspipeline resume` starts it once more", flush=True)
        return
    problem = shown.problem or _answer(["scontrol", "requeue", job]).problem
    print(f"not requeued: {problem}" if problem else f"requeued: {job}", flush=True)


def _answer(command: list[str]) -> Answer:
    """What a SLURM program answers, asked again while its controller does not: a restart takes it a minute."""
    ends = time.monotonic() + ANSWER_S
    while True:
        answer = ask(command, timeout_s=ONE_ANSWER_S)
        silent = any(word in answer.problem for word in _SILENT)
        if not silent or time.monotonic() > ends:
            return answer
        time.sleep(_PAUSE_S)


def main() -> None:
    """Become a command inside its image: `python -P -m mspipeline.slurm.on_node.node ENVIRONMENT CELL COMMAND...`."""
    environment, cell_folder, *command = sys.argv[1:]
    line = _line(container_of(NodeEnvironment.model_validate_json(environment), cell_folder, os.environ), command)
    os.execvp(line[0], line)


if __name__ == "__main__":
    main()
