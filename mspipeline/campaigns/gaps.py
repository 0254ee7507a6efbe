"""Cells that never began, as rows of the tables: `python -m mspipeline.campaigns.gaps CAMPAIGN`.

A cell that died before its training could write `run.json` would be missing from every table without a word. For each
such cell that is failed or interrupted, CAMPAIGN/gaps/<id>/run.json says what it was to be and why there is no more.
It is another folder than the cell's own, which stays as the cell left it, and goes when the cell is started again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.cell_state import CellState
from mspipeline.campaigns.cells import Cell
from mspipeline.campaigns.record import HASHES, manifest_path
from mspipeline.campaigns.scheduler import Scheduler
from mspipeline.errors import RunFolderError, ShapeError, SuiteError
from mspipeline.files import read_json, write_json
from mspipeline.models.catalogue import build, entry
from mspipeline.network.cost import cost
from mspipeline.runs import RunPaths, RunRecord, config_hash, ended_path, read_record, run_id, utc_now, write_record

ASKED, PAUSE_S = 5, 10.0


@dataclass(frozen=True)
class _Data:
    """What tells these shards from others; empty words where they were never made."""

    dataset_hash: str = ""
    recipe_hash: str = ""
    split_hash: str = ""


def write_gaps(campaign: Campaign) -> list[str]:
    """Write `run.json` for each cell that is over and has none; their ids.

    So it is with a cell of which nobody can tell whether it has begun, because the scheduler does not answer. The
    `run.json` of a killed training says `running` for ever: such cells that are over are listed in
    CAMPAIGN/gaps/ended.json. Call it on the host: an image cannot ask the scheduler.
    """
    found = []
    ended: dict[str, dict[str, object]] = {}
    data, recipe = _data(campaign)
    silent = not campaign.scheduler.answers()
    for cell, state in zip(campaign.cells, campaign.state(), strict=True):
        unknown = silent and state.state == "running"
        over = state.state in ("failed", "interrupted") or unknown
        if not over:
            continue
        if RunPaths(cell.train.run_folder).record.exists():
            with suppress(RunFolderError):  # `collect` names it
                began = read_record(RunPaths(cell.train.run_folder))
                if began.status == "running" and not unknown:
                    ended[cell.id] = {"status": state.state, "restart_count": began.restart_count}
            continue
        problem = f"unknown: {silence(campaign.scheduler)}" if unknown else f"never began: {state.message}"
        record = _record(campaign, cell, state, data, recipe, problem)
        write_record(RunPaths(campaign.folder / "gaps" / cell.id), record)
        found.append(cell.id)
    if ended or ended_path(campaign.folder).exists():
        write_json(ended_path(campaign.folder), {"schema_version": 1, "cells": ended})
    return found


def silence(scheduler: Scheduler) -> str:
    """What is known of cells for which the scheduler would have to be asked and did not answer."""
    return f"{scheduler.title} did not answer when the tables were made"


def wait_for_answer(scheduler: Scheduler, tries: int = ASKED, pause_s: float = PAUSE_S) -> bool:
    """Whether the scheduler answers, asked again for a while: a controller that restarts is away for a minute."""
    for _ in range(tries):
        if scheduler.answers():
            return True
        time.sleep(pause_s)
        scheduler.forget()
    return scheduler.answers()


def _data(campaign: Campaign) -> tuple[_Data, Mapping[str, object]]:
    """Hashes and recipe of the shards, or of what was to make them."""
    path = manifest_path(campaign.record.shards)
    if path.exists():
        manifest = read_json(path, what="shard manifest", remedy="prepare again")
        return _Data(**{name: manifest[name] for name in HASHES}), manifest["recipe"]
    if campaign.record.prepare is None:
        return _Data(), {}
    return _Data(recipe_hash=campaign.recipe.hash), campaign.recipe.document


def _record(
    campaign: Campaign, cell: Cell, state: CellState, data: _Data, recipe: Mapping[str, object], problem: str
) -> RunRecord:
    job = cell.train
    try:
        graph = build(job.model.name, campaign.recipe.image_shape, job.model.arguments)
    except ShapeError:
        graph = build(job.model.name, entry(job.model.name).example_shape, job.model.arguments)
    costs = cost(graph)
    now = utc_now()
    return RunRecord(
        run_id=run_id(job, data),
        status="failed" if state.state == "failed" else "interrupted",
        campaign=job.campaign,
        cell=cell.id,
        model=job.model.name,
        model_arguments=dict(job.model.arguments),
        backend=job.backend,
        backend_version="",
        device="",
        memory=job.memory,
        seed=job.seed,
        optimizer=job.training.optimizer,
        learning_rate=job.training.chosen_optimizer.learning_rate,
        batch_size=job.training.batch_size or campaign.recipe.batch_size,
        threads=job.threads,
        started_utc=now,
        ended_utc=now,
        restart_count=state.attempt or 0,
        monitor=job.training.monitor,
        threshold=job.training.threshold,
        trainable_parameters=costs.trainable,
        non_trainable_parameters=costs.non_trainable,
        macs=costs.macs,
        graph_hash=graph.hash,
        dataset_hash=data.dataset_hash,
        split_hash=data.split_hash,
        recipe_hash=data.recipe_hash,
        recipe=dict(recipe),
        config_hash=config_hash(job, data),
        provenance={},
        problem=problem,
    )


def main() -> int:
    """Write the gaps of the campaign named on the command line."""
    try:
        campaign = Campaign.open(Path(sys.argv[1]))
        if not wait_for_answer(campaign.scheduler):
            print(
                f"warning: {silence(campaign.scheduler)}; cells that may not have begun are rows that say so",
                file=sys.stderr,
            )
        for name in write_gaps(campaign):
            print(f"{name}: never wrote run.json; the tables have a row with the reason")
    except SuiteError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
