"""What a site file means on SLURM: what it has to have, and the words that come of it."""

from __future__ import annotations

from mspipeline.campaigns.site import Partition, Site
from mspipeline.config import Scalar
from mspipeline.errors import ConfigError
from mspipeline.slurm import modules, sbatch_options
from mspipeline.slurm.srun import OF_ENVIRONMENT, srun_words


def validate(site: Site) -> None:
    """Raise ConfigError where a site file cannot be one of a SLURM cluster. Asks no program."""
    if not site.partitions:
        raise ConfigError("a site with executor = 'slurm' needs at least one [partitions.NAME]")
    sbatch_options.check(site.sbatch)
    for name, partition in site.partitions.items():
        if partition.time_min is not None and partition.time_min * 60 <= site.warn_s:
            raise ConfigError(
                f"partitions.{name}.time_min = {partition.time_min} ends before its warning, warn_s = "
                f"{site.warn_s} seconds ahead; lower warn_s or raise time_min"
            )
        try:
            sbatch_options.check(partition.sbatch)
        except ConfigError as error:
            raise ConfigError(f"partitions.{name}: {error}") from error


def sbatch_of(site: Site, partition: Partition) -> dict[str, Scalar]:
    """The further sbatch options of a partition's jobs, by sbatch's own names."""
    every = {**site.sbatch, **partition.sbatch}
    return {name: value for name, value in every.items() if value is not False}


def setup_lines(site: Site) -> list[str]:
    """Lines of a batch script before its work: the modules. The site's own, not those of the submitting shell."""
    return modules.strict_lines(site.modules)


def mpi_command(site: Site, ranks: int) -> list[str]:
    """What starts `ranks` copies of the command that follows it, a core each."""
    start = srun_words(mpi=site.mpi_plugin or OF_ENVIRONMENT, cpus=1) if site.mpi == "srun" else [site.mpi]
    return [*start, "-n", str(ranks)]
