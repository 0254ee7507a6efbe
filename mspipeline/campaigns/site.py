"""A site: where cells run. Built-in sites are the TOML files in slurm/sites; any other is named by its path."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from mspipeline.config import Scalar, Strict, read_config
from mspipeline.errors import ConfigError, nearest
from mspipeline.slurm import modules, sbatch_options
from mspipeline.slurm.srun import OF_ENVIRONMENT, srun_words

BUILT_IN = Path(__file__).parents[1] / "slurm" / "sites"
RUNTIMES = ("none", "apptainer", "singularity", "podman", "docker")
_GRES = re.compile(r"[A-Za-z_]+(:[A-Za-z0-9_.\-]+)?(:[1-9][0-9]*)?")
_BIND = re.compile(r"(/|\$)[^:]*(:/[^:]*)?(:(ro|rw))?")


class Partition(Strict):
    """What one cell asks for. Unset (null) leaves it to the site, and what the site leaves open to the scheduler.

    device: what its nodes offer. cpus: per cell. time_min: limit of one attempt of a cell, which then continues.
    gres: generic resources as sbatch takes them, e.g. `gpu:t4:1`.
    pack: cells of one process that run side by side in one job, which asks for that many times cpus and mem_gb; they
        share its gres.
    sbatch: more options of sbatch, by their long names: `{ constraint = "t4", exclusive = true }`. They are added to
        the site's and replace those of the same name; `false` takes one of the site's away.
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
    def _sbatch_has_such_options(cls, value: dict[str, Scalar]) -> dict[str, Scalar]:
        return _checked_options(value)

    @field_validator("gres")
    @classmethod
    def _gres_is_what_sbatch_takes(cls, value: str | None) -> str | None:
        for word in [] if value is None else value.split(","):
            if not _GRES.fullmatch(word):
                raise ValueError(f"{word!r} is not NAME, NAME:COUNT or NAME:TYPE:COUNT, as `sinfo -o %G` lists them")
        return value


def _checked_options(options: dict[str, Scalar]) -> dict[str, Scalar]:
    """For pydantic, which wants a ValueError."""
    try:
        return sbatch_options.checked(options)
    except ConfigError as error:
        raise ValueError(str(error)) from error


class Image(Strict):
    """The image of one backend. file: in image_folder, or a path; for docker and podman a reference.

    digest: `sha256:` of the file, so that no other comes into use unseen; a reference has its own: `NAME@sha256:...`.
    """

    file: str
    digest: str | None = Field(None, pattern=r"^sha256:[0-9a-f]{64}$")

    @model_validator(mode="before")
    @classmethod
    def _a_word_is_the_file(cls, value: object) -> object:
        return {"file": value} if isinstance(value, str) else value


class Site(Strict):
    """Where cells run. All but name, executor and, on SLURM, a partition is optional.

    executor: `local` runs them on this machine, `slurm` hands them to sbatch.
    max_parallel: cells at a time; unset is one on this machine and no limit on SLURM. A local cell with `threads = 0`
        takes every core, so several at a time share them.
    partitions: by the scheduler's own names; a local site needs none.
    account, qos: of every partition that names none of its own.
    sbatch: options of sbatch that no other key stands for, of every job: `{ reservation = "x", mail_user = "a@b" }`.
    tries: how many times in a row a cell may die without progress before it counts as failed.
    warn_s: how many seconds before its time limit a cell is warned, saves its state and goes back into the queue.
    container: runtime that starts the cells; `none` runs them in this environment.
    images: by backend; a file in image_folder for apptainer and singularity, a reference for docker and podman; or
        `{ file = ..., digest = "sha256:..." }`.
    binds: what the container sees besides a campaign's own folders: `/path`, `/path:/inside`, `/path:/inside:ro`.
    scratch: fast folder of a node, TMPDIR of the cells. It and the binds may name variables of the job: `/local/$USER`.
    pass_environment: variables that enter the container besides PASSED of slurm.on_node: `NAME` or `PREFIX_*`.
    modules: loaded before a cell starts; one that does not load ends the cell. mpi: what starts the ranks of a
        preparation; mpi_plugin: srun's `--mpi`, which follows from the MPI under mpi4py where it is unset.
    """

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    executor: Literal["local", "slurm"]
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
    def _sbatch_has_such_options(cls, value: dict[str, Scalar]) -> dict[str, Scalar]:
        return _checked_options(value)

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
        if self.executor == "slurm" and not self.partitions:
            raise ValueError("a site with executor = 'slurm' needs at least one [partitions.NAME]")
        for name, partition in self.partitions.items():
            if partition.time_min is not None and self.executor == "slurm" and partition.time_min * 60 <= self.warn_s:
                raise ValueError(
                    f"partitions.{name}.time_min = {partition.time_min} ends before its warning, warn_s = "
                    f"{self.warn_s} seconds ahead; lower warn_s or raise time_min"
                )
        if self.executor == "local" and (self.sbatch or any(each.sbatch for each in self.partitions.values())):
            raise ValueError("sbatch options on a site with executor = 'local'; leave them out, nothing is submitted")
        if self.container == "none" and (self.images or self.image_folder):
            raise ValueError(f"images without a container; set container to {' or '.join(RUNTIMES[1:])}")
        if self.container != "none" and self.executor == "local":
            raise ValueError("a container needs executor = 'slurm'; local cells run in this environment")
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

    @property
    def limit(self) -> float:
        """Cells at a time; infinite where the scheduler alone decides."""
        return self.max_parallel or (1 if self.executor == "local" else math.inf)

    def partition_for(self, device: str) -> tuple[str, Partition]:
        """Name and values of the partition for a cell's device: `cpu`, `gpu`, or `auto` (a GPU where the site has one).

        A local site without partitions gives an unnamed one without limits.
        Raises ConfigError where no partition has that device.
        """
        if not self.partitions and self.executor == "local":
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

    def mpi_command(self, ranks: int) -> list[str]:
        """What starts `ranks` copies of the command that follows it, a core each."""
        start = srun_words(mpi=self.mpi_plugin or OF_ENVIRONMENT, cpus=1) if self.mpi == "srun" else [self.mpi]
        return [*start, "-n", str(ranks)]

    def sbatch_of(self, partition: Partition) -> dict[str, Scalar]:
        """The further sbatch options of a partition's jobs, by sbatch's own names."""
        every = {**self.sbatch, **partition.sbatch}
        return {name: value for name, value in every.items() if value is not False}

    def setup_lines(self) -> list[str]:
        """Lines of a batch script before its work: the modules. The site's own, not those of the submitting shell."""
        return modules.strict_lines(self.modules)


def load_site(name_or_path: str) -> Site:
    """A built-in site by its name, or one from a TOML file.

    Raises ConfigError where there is no such site or its file does not fit.
    """
    built_in = {path.stem: path for path in sorted(BUILT_IN.glob("*.toml"))}
    if name_or_path in built_in:
        return read_config(built_in[name_or_path], Site)
    path = Path(name_or_path)
    if path.suffix != ".toml" and not path.exists():
        raise ConfigError(
            f"unknown site {name_or_path!r}; {nearest(name_or_path, list(built_in))}, or the path of a site's TOML file"
        )
    return read_config(path, Site)
