"""Which cells of a sweep share a job array, and which array waits for which. Pure.

one job a cell                 separate_jobs = true
  [train evaluate] x cells       [train] x cells -> [evaluate] x cells, element by element
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mspipeline.campaigns.cells import Cell, Step
from mspipeline.campaigns.job_shape import JobShape
from mspipeline.campaigns.scheduler import Scheduler
from mspipeline.campaigns.site import Partition, Site

MAX_ELEMENTS = 1000
"""Elements of one array: SLURM's MaxArraySize is 1001 unless the site has raised it."""


@dataclass(frozen=True)
class Array:
    """Cells that go as one job array: they ask for the same. steps: numbers of those that it runs of each cell."""

    name: str
    device: str
    partition_name: str
    partition: Partition
    cells: tuple[Cell, ...]
    steps: tuple[int, ...]
    shape: JobShape

    @property
    def jobs(self) -> int:
        """Its elements; a cell has one, or shares one where cells are packed."""
        return math.ceil(len(self.cells) / self.shape.pack)

    def steps_of(self, cell: Cell) -> list[Step]:
        """What it runs of a cell."""
        return [cell.steps[number] for number in self.steps]


def chains(cells: Sequence[Cell], site: Site, scheduler: Scheduler, *, separate_jobs: bool) -> list[tuple[Array, ...]]:
    """The arrays of these cells. Those of one chain have the same cells in one order; each waits for the one before.

    Raises ConfigError where the site has no partition for a cell.
    """
    separate = separate_jobs and scheduler.queues
    alike: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        key = tuple(_key(cell, numbers, site) for numbers in _jobs(cell, separate=separate))
        alike.setdefault(key, []).append(cell)
    found = []
    for group in alike.values():
        jobs = _jobs(group[0], separate=separate)
        pack = min(_pack(group[0], numbers, site, scheduler) for numbers in jobs)
        size = MAX_ELEMENTS * pack
        for start in range(0, len(group), size):
            part = tuple(group[start : start + size])
            found.append(tuple(_array(part, numbers, site, pack, separate=separate) for numbers in jobs))
    return found


def job_commands(cell: Cell, python: str = sys.executable) -> list[list[str]]:
    """What a cell runs: its training, then its evaluation, each under the supervisor.

    python: the interpreter; `python` in an image. -P: a folder called `jobs` where the user stands must not hide the
    package.
    """
    start = [python, "-P", "-m", "mspipeline.jobs", "supervise"]
    return [[*start, step.job, str(config_path(cell, step.name))] for step in cell.steps]


def config_path(cell: Cell, step: str) -> Path:
    """The configuration file of one step of a cell, e.g. `train`."""
    return cell.train.run_folder / "jobs" / f"{step}.json"


def _jobs(cell: Cell, *, separate: bool) -> list[tuple[int, ...]]:
    """Numbers of the steps that each job of a cell runs."""
    numbers = range(len(cell.steps))
    return [(number,) for number in numbers] if separate else [tuple(numbers)]


def _key(cell: Cell, numbers: tuple[int, ...], site: Site) -> tuple[object, ...]:
    """What a job of a cell asks for: cells of one shape have the same."""
    device = cell.steps[numbers[0]].device
    image = cell.train.backend if site.container != "none" else ""
    return (site.partition_for(device)[0], image, _tasks(cell, numbers))


def _tasks(cell: Cell, numbers: tuple[int, ...]) -> int:
    return max(cell.steps[number].processes for number in numbers)


def _pack(cell: Cell, numbers: tuple[int, ...], site: Site, scheduler: Scheduler) -> int:
    """Cells in one job. Those of several processes are alone in theirs."""
    partition = site.partition_for(cell.steps[numbers[0]].device)[1]
    return scheduler.pack(partition) if _tasks(cell, numbers) == 1 else 1


def _array(cells: tuple[Cell, ...], numbers: tuple[int, ...], site: Site, pack: int, *, separate: bool) -> Array:
    first = cells[0]
    step = first.steps[numbers[0]]
    shape = JobShape(tasks=_tasks(first, numbers), pack=min(pack, len(cells)), propagates_exit_code=separate)
    name = step.name if separate else "cells"
    return Array(name, step.device, *site.partition_for(step.device), cells, numbers, shape)
