"""A site file: where cells run, which scheduler takes them there, and what they ask it for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from mspipeline.config import Scalar, Strict
from mspipeline.errors import ConfigError, nearest

RUNTIMES = ("none", "apptainer", "singularity", "podman", "docker")
_GRES = re.compile(r"[A-Za-z_]+(:[A-Za-z0-9_.\-]+)?(:[1-9][0-9]*)?")
_BIND = re.compile(r"(/|\$)[^:]*(:/[^:]*)?(:(ro|rw))?")


class Partition(Strict):
    """What one cell asks for. An unset value (null) is left to the site, then to the scheduler.

    device: what its nodes offer.
    cpus, mem_gb: of one cell.
    time_min: time limit of one attempt of a cell; the next attempt continues from its last checkpoint.
    gres: generic resources as sbatch takes them, e.g. `gpu:t4:1`.
    account, qos: of its jobs.
    pack: how many cells of one process share a job, side by side. The job asks for that many times cpus and mem_gb;
        the cells share its gres.
    sbatch: further options of sbatch by their long names: `{ constraint = "t4", exclusive = true }`. They are added to
        the site's and replace those of the same name; `false` removes one of the site's.
    """

    device: Literal["cpu", "gpu"] = "cpu"
    cpus: PositiveInt | None = None
    mem_gb: PositiveFloat | None = None
    time_min: PositiveInt | None = None
    gres: str | None = None
    account: str | None = None
    qos: str | None = None
    pack: PositiveInt = 1
    sbatch: dict[str, Scalar] = Field(default_factory=dict)

    @field_validator("sbatch")
    @classmethod
    def _options_have_one_spelling(cls, value: dict[str, Scalar]) -> dict[str, Scalar]:
        return _spelled(value)

    @field_validator("gres")
    @classmethod
    def _gres_is_what_sbatch_takes(cls, value: str | None) -> str | None:
        for word in [] if value is None else value.split(","):
            if not _GRES.fullmatch(word):
                raise ValueError(f"{word!r} is not NAME, NAME:COUNT or NAME:TYPE:COUNT, as `sinfo -o %G` lists them")
        return value


def _spelled(options: dict[str, Scalar]) -> dict[str, Scalar]:
    """Options in sbatch's own spelling: `mail_user` is `mail-user`. Which of them exist, the scheduler checks."""
    found: dict[str, Scalar] = {}
    for written, value in options.items():
        name = written.replace("_", "-")
        if name in found:
            raise ValueError(f"sbatch.{written} is given twice, with `_` and with `-`; write it once")
        found[name] = value
    return found


class Image(Strict):
    """The container image of one backend.

    file: a path, or a name in image_folder; for docker and podman a reference.
    digest: `sha256:` of the file, so that a file that has changed is refused. A reference carries its digest itself:
        `NAME@sha256:...`.
    """

    file: str
    digest: str | None = Field(None, pattern=r"^sha256:[0-9a-f]{64}$")

    @model_validator(mode="before")
    @classmethod
    def _a_word_is_the_file(cls, value: object) -> object:
        return {"file": value} if isinstance(value, str) else value


class Site(Strict):
    """A site file. Only `name` and `executor` are required, and on SLURM one partition.

    executor: the scheduler. `local` runs cells on this machine, `slurm` hands them to sbatch.
    max_parallel: how many cells run at a time. Default: one on this machine, no limit on SLURM. A local cell with
        `threads = 0` uses every core, so several of them share the cores.
    partitions: by the names that the scheduler gives them; a local site needs none.
    account, qos: for every partition that does not set its own.
    sbatch: options of sbatch, for every job, that have no key of their own in this file:
        `{ reservation = "x", mail_user = "a@b" }`.
    tries: how many times in a row a cell may die without progress before it counts as failed.
    warn_s: how many seconds before its time limit a cell is warned. It then saves its state and is queued again.
    container: runtime that starts the cells; `none` runs them in this environment.
    images: one for each backend. For apptainer and singularity a file in image_folder, for docker and podman a
        reference, or `{ file = ..., digest = "sha256:..." }`.
    binds: folders that the container sees besides the campaign's own: `/path`, `/path:/inside`, `/path:/inside:ro`.
    scratch: fast folder of a node, used as TMPDIR of the cells. scratch and binds may use variables of the job, as in
        `/local/$USER`.
    pass_environment: variables that enter the container besides PASSED of slurm.on_node: `NAME` or `PREFIX_*`.
    modules: environment modules to load before a cell starts. If one does not load, the job ends.
    mpi: the launcher of a preparation's ranks.
    mpi_plugin: value of srun's `--mpi`. Default: the one that fits the MPI under mpi4py.
    """

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    executor: str
    max_parallel: PositiveInt | None = None
    partitions: dict[str, Partition] = Field(default_factory=dict)
    account: str | None = None
    qos: str | None = None
    sbatch: dict[str, Scalar] = Field(default_factory=dict)
    tries: PositiveInt = 3
    warn_s: PositiveInt = 90
    container: str = "none"
    image_folder: Path | None = None
    images: dict[str, Image] = Field(default_factory=dict)
    binds: tuple[str, ...] = ()
    scratch: str | None = None
    pass_environment: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    mpi: Literal["srun", "mpirun", "mpiexec"] = "srun"
    mpi_plugin: str | None = None

    @field_validator("sbatch")
    @classmethod
    def _options_have_one_spelling(cls, value: dict[str, Scalar]) -> dict[str, Scalar]:
        return _spelled(value)

    @field_validator("container")
    @classmethod
    def _container_is_known(cls, value: str) -> str:
        if value not in RUNTIMES:
            raise ValueError(f"unknown container runtime; {nearest(value, list(RUNTIMES))}")
        return value

    @field_validator("binds")
    @classmethod
    def _binds_are_absolute(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not _BIND.fullmatch(value):
                raise ValueError(f"{value!r} is not /path, /path:/inside or /path:/inside:ro; write absolute paths")
        return values

    @field_validator("scratch")
    @classmethod
    def _scratch_is_absolute(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("/", "$")):
            raise ValueError("not an absolute path; write one, or a variable of the job such as $TMPDIR")
        return value

    @field_validator("modules")
    @classmethod
    def _modules_are_words(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+/\-]*", value):
                raise ValueError(f"{value!r} is not the name of a module, as `module avail` lists them")
        return values

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Site:
        if self.container == "none" and (self.images or self.image_folder):
            raise ValueError(f"images without a container; set container to {' or '.join(RUNTIMES[1:])}")
        if self.container in ("docker", "podman") and self.image_folder:
            raise ValueError(f"image_folder is for apptainer and singularity; {self.container} takes [images] alone")
        for backend, image in self.images.items():
            if self.container in ("docker", "podman") and image.digest:
                raise ValueError(
                    f"images.{backend}: {self.container} takes the digest in the reference: NAME@sha256:..."
                )
        if self.mpi_plugin and self.mpi != "srun":
            raise ValueError(f"mpi_plugin is srun's; with mpi = {self.mpi!r} leave it out")
        return self

    def partition_for(self, device: str) -> tuple[str, Partition]:
        """Name and values of the partition for a cell's device: `cpu`, `gpu`, or `auto` (a GPU where the site has one).

        A site without partitions gives an unnamed one without limits.
        Raises ConfigError where no partition has that device.
        """
        if not self.partitions:
            return "", Partition(device="gpu" if device == "gpu" else "cpu")
        wanted = ("gpu", "cpu") if device == "auto" else (device,)
        for kind in wanted:
            for name, partition in self.partitions.items():
                if partition.device == kind:
                    return name, partition
        has = ", ".join(f"{name} ({partition.device})" for name, partition in self.partitions.items())
        raise ConfigError(
            f"site {self.name}: no partition for device {device!r}; it has {has}; "
            "add one to the site file or change `device` in the sweep"
        )

    @property
    def device_of_steps(self) -> str:
        """The device of a campaign's other jobs, preparation and tables: a CPU, where the site has one."""
        return "cpu" if any(each.device == "cpu" for each in self.partitions.values()) else "auto"

    def image_for(self, backend: str) -> str:
        """The image of a backend, as the container runtime takes it: a path, or a reference.

        Raises ConfigError where the site names none, or its file is not there.
        """
        if backend not in self.images:
            has = ", ".join(sorted(self.images)) or "none"
            raise ConfigError(
                f"site {self.name}: no image for backend {backend!r}; it has {has}; "
                f"add `{backend} = ...` under [images] of the site file"
            )
        named = self.images[backend].file
        if self.container in ("docker", "podman"):
            return named
        path = (self.image_folder or Path()) / named
        if not path.is_absolute():
            raise ConfigError(
                f"site {self.name}: image {named!r} of backend {backend!r} has no folder; set image_folder"
            )
        if not path.exists():
            there = sorted(each.name for each in path.parent.glob("*.sif"))
            has = f"it has {', '.join(there)}" if there else "it has none"
            raise ConfigError(
                f"{path}: no such image (backend {backend!r}, site {self.name}); "
                f"{path.parent} {has.removeprefix('it ')}; build or copy it there"
            )
        return str(path)
