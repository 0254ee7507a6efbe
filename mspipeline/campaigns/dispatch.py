"""Cells handed to their scheduler; to one with a queue the whole chain at once, so that nobody has to stay.

prepare -succeeded-> cells, or their steps -same_succeeded-> one by one -ended-> collect
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mspipeline.campaigns import before_and_after
from mspipeline.campaigns.arrays import Array, chains, config_path, job_commands
from mspipeline.campaigns.cells import Cell
from mspipeline.campaigns.job_shape import After, JobShape
from mspipeline.campaigns.scheduler import JobRequest, Scheduler
from mspipeline.campaigns.site import Site
from mspipeline.campaigns.submission import CellSubmission, Handle, Submission, read_submission
from mspipeline.campaigns.sweep import Sweep
from mspipeline.config import PrepareJob
from mspipeline.files import write_json

Commands = Callable[[Cell], list[list[str]]]


@dataclass(frozen=True)
class Dispatch:
    """Hands cells over. cells: all of the campaign. commands: a line for each step of a cell; None is `job_commands`.

    prepare: the preparation that the cells wait for; None where the shards are there. collect: whether tables follow.
    """

    folder: Path
    sweep: Sweep
    shards: Path
    site: Site
    scheduler: Scheduler
    cells: Sequence[Cell]
    prepare: PrepareJob | None = None
    collect: bool = False
    commands: Commands | None = None

    def __call__(self, given: list[Cell]) -> list[Handle]:
        """Submit these cells and what runs before and after them; their handles, in their order."""
        for cell in given:
            shutil.rmtree(self.folder / "gaps" / cell.id, ignore_errors=True)
            for step in cell.steps:
                write_json(config_path(cell, step.name), step.config.model_dump(mode="json"))
        first = self._prepared() if self.scheduler.queues else None
        handles: dict[str, Handle] = {}
        for chain in chains(given, self.site, self.scheduler, separate_jobs=self.sweep.separate_jobs):
            after = first
            for array in chain:
                submitted = self._submit(array, after, handles)
                handles.update({cell.id: each for cell, each in zip(array.cells, submitted, strict=True)})
                after = After("same_succeeded" if array.jobs > 1 else "succeeded", (submitted[0].submission.job_id,))
        if self.scheduler.queues and self.collect:
            self._collected()
        return [handles[cell.id] for cell in given]

    def _submit(self, array: Array, after: After | None, earlier: dict[str, Handle]) -> list[Handle]:
        """One array; one that waits for a step of its cells knows that step's jobs."""
        submissions = []
        for cell in array.cells:
            lines = (self.commands or (lambda each: job_commands(each, before_and_after.python_of(self.site))))(cell)
            submissions.append(
                CellSubmission(
                    cell.id,
                    [lines[number] for number in array.steps] if len(array.steps) < len(cell.steps) else lines,
                    cell.train.run_folder,
                    [self.scheduler.launcher(step.processes, array.partition) for step in array.steps_of(cell)]
                    if array.shape.tasks > 1
                    else (),
                    earlier[cell.id].submission.jobs if cell.id in earlier else (),
                )
            )
        alone = len(array.cells) == 1
        name = array.cells[0].id if alone else self.sweep.name
        return self.scheduler.submit(
            JobRequest(
                self.site,
                array.device,
                name if array.name == "cells" else f"{name}-{array.name}",
                submissions,
                self._logs(array.cells[0].id if alone else "arrays"),
                replace(array.shape, after=after),
                backend=array.cells[0].train.backend,
                gpu=array.partition.device == "gpu",
                folders=(str(self.folder),),
                read_only=(str(self.shards),),
            )
        )

    def _prepared(self) -> After | None:
        """What the cells wait for: a preparation that is on its way, or one that is submitted now."""
        if self.prepare is None:
            return None
        there = read_submission(self.folder / "prepare")
        if there is None or not self.scheduler.queued(there):
            ranks = self.sweep.prepare.ranks
            python = before_and_after.python_of(self.site)
            submission = before_and_after.prepare_submission(
                self.folder, self.prepare, self.site, self.scheduler, ranks, python
            )
            self.shards.mkdir(parents=True, exist_ok=True)
            shards = () if self.folder in self.shards.parents else (str(self.shards),)
            shape = before_and_after.prepare_shape(ranks)
            there = self.submit_step(submission, shape, folders=shards, read_only=(str(self.prepare.dataset),))
        return After("succeeded", (there.job_id,))

    def _collected(self) -> None:
        """Submit the tables, after every cell that is on its way."""
        there = [read_submission(cell.train.run_folder) for cell in self.cells]
        jobs = [job for each in there if each is not None and self.scheduler.queued(each) for job in each.jobs]
        submission = before_and_after.collect_submission(self.folder, before_and_after.python_of(self.site))
        shards = (str(self.shards),) if self.shards.exists() else ()
        shape = before_and_after.collect_shape(jobs)
        self.submit_step(submission, shape, read_only=shards, on_host=before_and_after.COLLECT_ON_HOST)

    def submit_step(
        self,
        submission: CellSubmission,
        shape: JobShape,
        *,
        folders: tuple[str, ...] = (),
        read_only: tuple[str, ...] = (),
        on_host: tuple[int, ...] = (),
    ) -> Submission:
        """Submit the preparation or the tables, to a CPU if the site has one; one that still waits makes room.

        folders, read_only: what the job's container sees besides the campaign's own folder.
        """
        earlier = read_submission(submission.cell_folder)
        if earlier is not None and self.scheduler.queued(earlier):
            self.scheduler.withdraw(earlier.jobs)
        request = JobRequest(
            self.site,
            self.site.device_of_steps,
            submission.name,
            [submission],
            self._logs(submission.name),
            shape,
            backend=self.cells[0].train.backend,
            folders=(str(self.folder), *folders),
            read_only=read_only,
            on_host=on_host,
        )
        (handle,) = self.scheduler.submit(request)
        return handle.submission

    def _logs(self, name: str) -> Path:
        """The folder of the next submission's logs."""
        logs = self.folder / "logs" / name
        return logs / str(len(list(logs.iterdir())) if logs.exists() else 0)
