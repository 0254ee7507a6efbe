"""Cells handed to their site: on SLURM the whole chain at once, so that nobody has to stay.

prepare -afterok-> cells, or their steps -aftercorr-> one by one -afterany-> collect
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mspipeline.campaigns import before_and_after as around
from mspipeline.campaigns.arrays import Array, chains, config_path, job_commands, launcher
from mspipeline.campaigns.cells import Cell
from mspipeline.campaigns.site import Site
from mspipeline.campaigns.sweep import Sweep
from mspipeline.config import PrepareJob
from mspipeline.files import write_json
from mspipeline.slurm.checks.image import commit_of, digest_of
from mspipeline.slurm.on_node.node import Surroundings
from mspipeline.slurm.submission import submit

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
    cells: Sequence[Cell]
    prepare: PrepareJob | None = None
    collect: bool = False
    commands: Commands | None = None

    def __call__(self, given: list[Cell]) -> list[submit.Handle]:
        """Submit these cells and what runs before and after them; their handles, in their order."""
        on_slurm = self.site.executor == "slurm"
        for cell in given:
            shutil.rmtree(self.folder / "gaps" / cell.id, ignore_errors=True)
            for step in cell.steps:
                write_json(config_path(cell, step.name), step.config.model_dump(mode="json"))
        first = self._prepared() if on_slurm else ""
        handles: dict[str, submit.Handle] = {}
        for chain in chains(given, self.site, separate_jobs=self.sweep.separate_jobs):
            after = first
            for array in chain:
                submitted = self._submit(array, after, handles)
                handles.update({cell.id: each for cell, each in zip(array.cells, submitted, strict=True)})
                base = submitted[0].submission.job_id.partition("_")[0]
                after = f"aftercorr:{base}" if array.jobs > 1 else f"afterok:{base}"
        if on_slurm and self.collect:
            self._collected()
        return [handles[cell.id] for cell in given]

    def _submit(self, array: Array, after: str, earlier: dict[str, submit.Handle]) -> list[submit.Handle]:
        """One array; one that waits for a step of its cells knows that step's jobs."""
        orders = []
        for cell in array.cells:
            lines = (self.commands or (lambda each: job_commands(each, around.python_of(self.site))))(cell)
            orders.append(
                submit.Order(
                    cell.id,
                    [lines[number] for number in array.steps] if len(array.steps) < len(cell.steps) else lines,
                    cell.train.run_folder,
                    [launcher(step, self.site, array.partition) for step in array.steps_of(cell)]
                    if array.shape.tasks > 1
                    else (),
                    earlier[cell.id].submission.jobs if cell.id in earlier else (),
                )
            )
        alone = len(array.cells) == 1
        logs = self.folder / "logs" / (array.cells[0].id if alone else "arrays")
        number = len(list(logs.iterdir())) if logs.exists() else 0
        name = array.cells[0].id if alone else self.sweep.name
        return submit.submit_together(
            self.site,
            array.device,
            orders,
            logs / str(number),
            name=name if array.name == "cells" else f"{name}-{array.name}",
            surroundings=self._of(array) if self.site.executor == "slurm" else None,
            shape=replace(array.shape, after=after),
        )

    def _of(self, array: Array) -> Surroundings:
        """What an array's commands are given on a node."""
        return self._surroundings(array.cells[0], (str(self.shards),), gpu=array.partition.device == "gpu")

    def _surroundings(self, cell: Cell, read_only: tuple[str, ...], *, gpu: bool = False) -> Surroundings:
        """What commands are given on a node, in the image of this cell's backend."""
        site = self.site
        if site.container == "none":
            return Surroundings(scratch=site.scratch, tries=site.tries)
        image = site.image_for(cell.train.backend)
        return Surroundings(
            container=site.container,
            image=image,
            image_digest=site.images[cell.train.backend].digest or digest_of(site.container, image),
            image_commit=commit_of(site.container, image),
            gpu=gpu,
            folders=(str(self.folder),),
            read_only=read_only,
            binds=site.binds,
            scratch=site.scratch,
            pass_environment=site.pass_environment,
            tries=site.tries,
        )

    def _prepared(self) -> str:
        """What the cells wait for: a preparation that is on its way, or one that is submitted now."""
        if self.prepare is None:
            return ""
        there = submit.read_submission(self.folder / "prepare")
        if there is None or not submit.queued(there):
            ranks = self.sweep.prepare.ranks
            order = around.prepare_order(self.folder, self.prepare, self.site, ranks, around.python_of(self.site))
            self.shards.mkdir(parents=True, exist_ok=True)
            surroundings = self._surroundings(self.cells[0], (str(self.prepare.dataset),))
            if self.folder not in self.shards.parents:
                surroundings = surroundings.model_copy(update={"folders": (str(self.folder), str(self.shards))})
            there = around.hand_over(self.site, self.folder, order, surroundings, around.prepare_shape(ranks))
        return f"afterok:{there.job_id}"

    def _collected(self) -> None:
        """Submit the tables, after every cell that is on its way."""
        folders = [cell.train.run_folder for cell in self.cells]
        there = [each for each in map(submit.read_submission, folders) if each is not None and submit.queued(each)]
        order = around.collect_order(self.folder, around.python_of(self.site))
        surroundings = self._surroundings(self.cells[0], (str(self.shards),) if self.shards.exists() else ())
        surroundings = surroundings.model_copy(update={"on_host": around.COLLECT_ON_HOST})
        shape = around.collect_shape([job for each in there for job in each.jobs])
        around.hand_over(self.site, self.folder, order, surroundings, shape)
