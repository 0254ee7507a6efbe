"""What a sweep will ask for, before anything runs: cells, images, core-hours and disk.

Core-hours are an upper bound of one attempt of every job: what all of them would take if each ran into its time limit.
The disk is an estimate from the numbers of weights: of each cell a best checkpoint (weights) and a last one (weights
and Adam's two moments), in float32, and a certificate for each further backend of a network. Metric rows and telemetry
come on top, a few megabytes a cell; so do shards that are still to be made.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from mspipeline.campaigns import before_and_after
from mspipeline.campaigns.arrays import Array, chains
from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.cells import Cell
from mspipeline.campaigns.job_shape import JobShape
from mspipeline.campaigns.site import Partition
from mspipeline.config import Scalar
from mspipeline.errors import ShapeError
from mspipeline.models.catalogue import build, entry
from mspipeline.network.cost import FLOAT32_BYTES, Cost, cost

CERTIFICATE_BYTES = 64 * 1024


@dataclass(frozen=True)
class PlannedJobs:
    """Jobs that ask for the same. Unknown values are None.

    steps: what each runs. cpus: of one job, all its processes and packed cells together. core_hours: upper bound of one
    attempt of each. image: None where the cells run in this environment.
    """

    steps: str
    partition: str
    jobs: int
    cells: int
    processes: int
    pack: int
    cpus: int | None
    gres: str | None
    time_min: int | None
    core_hours: float | None
    image: str | None


@dataclass(frozen=True)
class SweepPlan:
    """A sweep on its site. core_hours: None where a job has no stated limit. disk_bytes: an estimate.

    problems: why cells will fail, as far as their networks and images say; the others run all the same.
    """

    sweep: str
    site: str
    cells: int
    jobs: tuple[PlannedJobs, ...]
    core_hours: float | None
    disk_bytes: int
    free_bytes: int
    output: Path
    problems: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the disk has room for the estimate."""
        return self.disk_bytes <= self.free_bytes


def plan(campaign: Campaign) -> SweepPlan:
    """What this campaign will ask for; nothing is written or asked of a scheduler."""
    rows = [_planned(array, campaign) for array in _arrays(campaign)]
    if campaign.scheduler.queues:
        rows = [*_outer_jobs(campaign, "prepare"), *rows, *_outer_jobs(campaign, "collect")]
    hours = [row.core_hours for row in rows]
    known = [each for each in hours if each is not None]
    image_shape = campaign.recipe.image_shape
    return SweepPlan(
        campaign.record.sweep.name,
        campaign.record.site.name,
        len(campaign.cells),
        tuple(_merged(rows)),
        sum(known) if len(known) == len(hours) else None,
        _disk_bytes(campaign.cells, image_shape),
        shutil.disk_usage(_existing(campaign.folder)).free,
        campaign.folder,
        tuple(dict.fromkeys(problem for cell in campaign.cells if (problem := _cost_of(cell, image_shape)[1]))),
    )


def _arrays(campaign: Campaign) -> Iterable[Array]:
    site, separate = campaign.record.site, campaign.record.sweep.separate_jobs
    return (
        array for chain in chains(campaign.cells, site, campaign.scheduler, separate_jobs=separate) for array in chain
    )


def _planned(array: Array, campaign: Campaign) -> PlannedJobs:
    site, cell = campaign.record.site, array.cells[0]
    image = None if site.container == "none" else site.images[cell.train.backend].file
    steps = " + ".join(step.name for step in array.steps_of(cell))
    row = _row(steps, array.partition_name, array.partition, array.shape, array.jobs)
    return replace(row, cells=len(array.cells), image=image)


def _outer_jobs(campaign: Campaign, name: str) -> list[PlannedJobs]:
    """The preparation or the tables, where they are to come."""
    if not (campaign.to_prepare if name == "prepare" else campaign.record.collect):
        return []
    shape = (
        before_and_after.prepare_shape(campaign.record.sweep.prepare.ranks)
        if name == "prepare"
        else before_and_after.collect_shape()
    )
    site = campaign.record.site
    return [_row(name, *site.partition_for(site.device_of_steps), shape, 1)]


def _row(steps: str, partition_name: str, partition: Partition, shape: JobShape, jobs: int) -> PlannedJobs:
    """What a number of jobs of one shape ask for, before their cells and image are known."""
    asked = shape.of(partition)
    cpus = asked.cpus and asked.cpus * shape.tasks * shape.pack
    limit = asked.time_min
    hours = jobs * cpus * limit / 60 if cpus and limit else None
    return PlannedJobs(steps, partition_name, jobs, 0, shape.tasks, shape.pack, cpus, asked.gres, limit, hours, None)


def _merged(rows: Sequence[PlannedJobs]) -> list[PlannedJobs]:
    """Rows of one shape as one: a sweep of more cells than an array takes has several arrays alike."""
    merged: dict[PlannedJobs, PlannedJobs] = {}
    for row in rows:
        key = replace(row, jobs=0, cells=0, core_hours=None)
        there = merged.get(key)
        hours = None if row.core_hours is None else row.core_hours + ((there and there.core_hours) or 0)
        jobs, cells = (there.jobs, there.cells) if there else (0, 0)
        merged[key] = replace(row, jobs=row.jobs + jobs, cells=row.cells + cells, core_hours=hours)
    return list(merged.values())


def _disk_bytes(cells: Sequence[Cell], image_shape: tuple[int, ...]) -> int:
    total, compared = 0, set()
    for cell in cells:
        job = cell.train
        found, _ = _cost_of(cell, image_shape)
        total += FLOAT32_BYTES * (2 * found.total + 2 * found.trainable)
        if job.certificates is not None:
            compared.add((job.model.name, _arguments(cell), job.backend))
    return total + CERTIFICATE_BYTES * len(compared)


def _arguments(cell: Cell) -> tuple[tuple[str, Scalar], ...]:
    return tuple(sorted(cell.train.model.arguments.items()))


def _cost_of(cell: Cell, image_shape: tuple[int, ...]) -> tuple[Cost, str]:
    """Of a cell's network on these images; on those of its example, and why, where it is not for these."""
    return _cost(cell.train.model.name, image_shape, _arguments(cell))


@lru_cache(maxsize=256)
def _cost(name: str, image_shape: tuple[int, ...], arguments: tuple[tuple[str, Scalar], ...]) -> tuple[Cost, str]:
    try:
        return cost(build(name, image_shape, dict(arguments))), ""
    except ShapeError as error:
        return cost(build(name, entry(name).example_shape, dict(arguments))), str(error)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(each for each in (folder, *folder.parents) if each.exists())
