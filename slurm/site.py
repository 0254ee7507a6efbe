"""A site: where cells run. Built-in sites are the TOML files in slurm/sites; any other is named by its path."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from mspipeline.config import Strict, nearest, read_config
from mspipeline.errors import ConfigError

BUILT_IN = Path(__file__).parent / "sites"
_RUNTIMES = ("apptainer", "docker", "podman", "singularity")


class Partition(Strict):
    """What one cell asks for. Unset (null) leaves it to the scheduler's default.

    device: what its nodes offer. cpus: per cell. time_min: limit of one attempt of a cell.
    gres: generic resources as sbatch takes them, e.g. `gpu:t4:1`.
    """

    device: Literal["cpu", "gpu"] = "cpu"
    cpus: PositiveInt | None = None
    mem_gb: PositiveFloat | None = None
    time_min: PositiveInt | None = None
    gres: str | None = None
    account: str | None = None
    qos: str | None = None


class Site(Strict):
    """Where cells run.

    executor: `local` runs them on this machine, `slurm` hands them to sbatch.
    max_parallel: cells at a time; unset is one on this machine and no limit on SLURM. A local cell with `threads = 0`
        takes every core, so several at a time share them.
    partitions: by the scheduler's own names; a local site needs none.
    container: runtime that starts the cells; `none` runs them in this environment.
    """

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    executor: Literal["local", "slurm"]
    max_parallel: PositiveInt | None = None
    partitions: dict[str, Partition] = Field(default_factory=dict)
    container: str = "none"

    @field_validator("container")
    @classmethod
    def _container_is_built(cls, value: str) -> str:
        if value == "none":
            return value
        if value in _RUNTIMES:
            raise ValueError(f"container runtime {value} is not supported yet; write 'none'")
        raise ValueError(f"unknown container runtime; {nearest(value, ['none', *_RUNTIMES])}")

    @model_validator(mode="after")
    def _slurm_has_partitions(self) -> Site:
        if self.executor == "slurm" and not self.partitions:
            raise ValueError("a site with executor = 'slurm' needs at least one [partitions.NAME]")
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
