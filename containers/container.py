"""The command line that runs a command inside an image: pure, the same text for the same values.

Built inside the job, on the host, because that is where the variables that enter an image have their values. Every
runtime is asked for the same: no home folder, an environment given word by word, files owned by the user, the host's
network and name (ranks find each other, telemetry says where it was), an image that is there already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from string import Template

from mspipeline.errors import ConfigError, UsageError

PASSED = (
    "CUDA_VISIBLE_DEVICES",
    "MASTER_ADDR",
    "MASTER_PORT",
    "MSPIPELINE_*",
    "OMPI_*",
    "OMP_NUM_THREADS",
    "PMIX_*",
    "PMI_*",
    "SLURMD_NODENAME",
    "SLURM_*",
    "TMPDIR",
)
"""Variables of the job that enter an image; all but these and a site's own stay outside."""
FIXED = {"PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}
"""Packages in a user's home are not the image's; lines reach the log as they are written."""


@dataclass(frozen=True)
class Bind:
    """A folder of the host inside the image. Paths are absolute and the folder exists."""

    source: str
    inside: str
    read_only: bool = False


@dataclass(frozen=True)
class Container:
    """How one command runs inside an image.

    runtime: `none` (outside of any image), `apptainer`, `singularity`, `podman` or `docker`. image: a file or a
    reference. folder: where the command starts, as seen inside. gpu: whether it is given the job's GPUs. environment:
    all the variables that it sees, besides those of the image. user, group: numbers, who owns what it writes; without
    a user it is whoever the image names. cores, memory_mib: what the job may use, none given means all; only Docker
    needs them.
    """

    runtime: str
    image: str = ""
    binds: tuple[Bind, ...] = ()
    folder: str = "/"
    gpu: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    user: int | None = 0
    group: int = 0
    cores: tuple[int, ...] = ()
    memory_mib: int | None = None


def argv(container: Container, command: Sequence[str]) -> list[str]:
    """The command line that runs `command` in the container.

    Raises UsageError for an unknown runtime, ConfigError for a folder that no runtime can bind.

    >>> argv(Container("podman", "app:1", folder="/run"), ["python", "-V"])[-5:]
    ['--entrypoint', '', 'app:1', 'python', '-V']
    """
    for path in (path for bind in container.binds for path in (bind.source, bind.inside)):
        if set(path) & set(',:"'):
            raise ConfigError(f"{path}: a comma, colon or quote in a folder that enters an image; choose another name")
    build = _BUILDERS.get(container.runtime)
    if build is None:
        raise UsageError(f"unknown container runtime {container.runtime!r}; valid: {', '.join(_BUILDERS)}")
    return [*build(container), *command]


def parse_bind(text: str, environ: Mapping[str, str]) -> Bind:
    """A site's `/path`, `/path:/inside` or `/path:/inside:ro`, with the job's variables put in.

    Raises ConfigError as `expand` does.

    >>> parse_bind("/data/$USER:/data:ro", {"USER": "ada"})
    Bind(source='/data/ada', inside='/data', read_only=True)
    """
    source, *rest = expand(text, environ).split(":")
    read_only = bool(rest) and rest[-1] == "ro"
    inside = [word for word in rest if word not in ("ro", "rw")]
    return Bind(source, inside[0] if inside else source, read_only)


def expand(text: str, environ: Mapping[str, str]) -> str:
    """`$NAME` and `${NAME}` replaced by the job's variables. Raises ConfigError where one is not set.

    >>> expand("/local/${USER}/x", {"USER": "ada"})
    '/local/ada/x'
    """
    try:
        return Template(text).substitute(environ)
    except KeyError as error:
        raise ConfigError(f"{text}: ${error.args[0]} is not set in the job; correct the site file") from None
    except ValueError:
        raise ConfigError(f"{text}: a $ that begins no variable's name; correct the site file") from None


def passed(environ: Mapping[str, str], more: Sequence[str] = ()) -> dict[str, str]:
    """What of the job's environment enters an image: PASSED and `more`, then FIXED.

    >>> passed({"SLURM_PROCID": "1", "LD_PRELOAD": "x", "PMIX_RANK": "0"}, ["PMIX_*"])["PMIX_RANK"]
    '0'
    """
    patterns = (*PASSED, *more)
    chosen = [name for name in sorted(environ) if any(fnmatchcase(name, pattern) for pattern in patterns)]
    return {**{name: environ[name] for name in chosen}, **FIXED}


def _apptainer(container: Container) -> list[str]:
    """Apptainer and Singularity: the user stays the user, so only the home folder and the environment need a word.

    --no-home alone mounts it still where the job stands in it. Variables travel as APPTAINERENV_NAME: `--env` reads a
    comma in a value, as in CUDA_VISIBLE_DEVICES=0,1, as the beginning of the next variable.
    """
    prefix = f"{container.runtime.upper()}ENV_"
    variables = [f"{prefix}{name}={value}" for name, value in container.environment.items()]
    return [
        *(["env", *variables] if variables else []),
        container.runtime,
        "exec",
        "--cleanenv",
        "--no-home",
        "--no-mount",
        "cwd",
        *(["--nv"] if container.gpu else []),
        *_pairs("--bind", [_colons(bind) for bind in container.binds]),
        "--pwd",
        container.folder,
        container.image,
    ]


def _docker(container: Container) -> list[str]:
    """Docker's daemon starts the container, outside of the job and so of its cores and its memory."""
    limits = ["--cpuset-cpus", ",".join(map(str, container.cores))] if container.cores else []
    limits += ["--memory", f"{container.memory_mib}m"] if container.memory_mib else []
    chosen = container.environment.get("CUDA_VISIBLE_DEVICES")
    devices = ["--gpus", "all" if chosen is None else f'"device={chosen}"'] if container.gpu and chosen != "" else []
    return [*_oci(container), *_user(container), *limits, *devices, *_oci_end(container)]


def _podman(container: Container) -> list[str]:
    """Rootless Podman maps the user to root unless it is asked to keep the number."""
    chosen = container.environment.get("CUDA_VISIBLE_DEVICES")
    names = ["all"] if chosen is None else [name for name in chosen.split(",") if name]
    devices = _pairs("--device", [f"nvidia.com/gpu={name}" for name in names]) if container.gpu else []
    keep = ["--userns", "keep-id"] if container.user else []
    return [*_oci(container), *keep, *_user(container), *devices, *_oci_end(container)]


def _user(container: Container) -> list[str]:
    return [] if container.user is None else ["--user", f"{container.user}:{container.group}"]


def _oci(container: Container) -> list[str]:
    """Options that Docker and Podman share. --mount refuses a source that is not there, --volume would make it."""
    mounts = [
        f"type=bind,source={bind.source},target={bind.inside}{',readonly' if bind.read_only else ''}"
        for bind in container.binds
    ]
    fixed = ["run", "--rm", "--pull", "never", "--network", "host", "--uts", "host", "--ipc", "host"]
    return [container.runtime, *fixed, *_pairs("--mount", mounts), "--workdir", container.folder]


def _oci_end(container: Container) -> list[str]:
    """Environment and image. A container's GPUs are numbered from 0 inside it, whatever their numbers are outside."""
    environment = dict(container.environment)
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if container.gpu and chosen and re.fullmatch(r"\d+(,\d+)*", chosen):
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(str(number) for number in range(chosen.count(",") + 1))
    return [
        *_pairs("--env", [f"{name}={value}" for name, value in environment.items()]),
        "--entrypoint",
        "",
        container.image,
    ]


def _pairs(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _colons(bind: Bind) -> str:
    return f"{bind.source}:{bind.inside}{':ro' if bind.read_only else ''}"


_BUILDERS: dict[str, Callable[[Container], list[str]]] = {
    "none": lambda container: [],
    "apptainer": _apptainer,
    "singularity": _apptainer,
    "podman": _podman,
    "docker": _docker,
}
