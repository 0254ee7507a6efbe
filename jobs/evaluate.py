"""Score a run case by case, on each scan's own grid."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np

from jobs.resources import threads_for
from mspipeline.backends.base import Execution
from mspipeline.config import EvaluateJob
from mspipeline.datasets.split import Subset
from mspipeline.errors import RunFolderError, UsageError
from mspipeline.inference.trained import TrainedRun, load_trained
from mspipeline.inference.windows import predict_on_scan
from mspipeline.metrics import overlap
from mspipeline.runs import RunPaths, RunRecord, read_record, read_rows, write_rows
from mspipeline.shards.manifest import CaseEntry, Manifest, load_manifest, verify_shards
from mspipeline.shards.reader import read_case
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import CASES
from mspipeline.training.loop import Stop

HELD_OUT: tuple[Subset, ...] = ("validation", "test")
Row = dict[str, Any]


def evaluate(
    job: EvaluateJob, *, events: EventWriter, stop: Stop, report: Callable[[str, int, int], None] | None = None
) -> list[Row]:
    """Rows of the table `cases` for the subsets asked for; they replace earlier rows of the same cases in the run.

    report: called with (case, done, total) after each.
    Raises RunFolderError where the run was trained on other shards, ShardError where a shard is not as the manifest
    says, UsageError where no subset asked for has cases.
    """
    manifest = load_manifest(job.shards)
    paths = RunPaths(job.run_folder)
    check_same_data(paths.root, read_record(paths), job.shards, manifest)
    entries = _entries(job, manifest)
    verify_shards(job.shards, manifest, entries=[entry for _, entry in entries])
    with events.phase("setup"):
        trained = load_trained(job.run_folder, job.checkpoint, Execution(threads=threads_for(job.threads)))
    rows = []
    with events.phase("evaluate"):
        for subset, entry in entries:
            rows.append(_score(job, trained, subset, entry))
            if report is not None:
                report(entry.case, len(rows), len(entries))
            if error := stop():
                raise error
    replaced = {row["case"] for row in rows}
    kept = [
        row
        for row in read_rows(paths.cases, CASES).to_pylist()
        if row["case"] not in replaced and row["checkpoint"] == job.checkpoint
    ]
    every = sorted(kept + rows, key=lambda row: str(row["case"]))
    write_rows(paths.cases, every, CASES)
    return rows


def check_same_data(run: Path, record: RunRecord, shards: Path, manifest: Manifest) -> None:
    """Raise RunFolderError where a run was trained on another dataset, split or recipe than that of these shards."""
    for what, ours, theirs in (
        ("dataset", record.dataset_hash, manifest.dataset_hash),
        ("recipe", record.recipe_hash, manifest.recipe_hash),
        ("split", record.split_hash, manifest.split_hash),
    ):
        if ours != theirs:
            raise RunFolderError(
                f"{run}: was trained on another {what} ({ours[:12]}) than that of {shards} ({theirs[:12]}); name the "
                "shards it was trained on, or use `mspipeline predict` for other scans"
            )


def _entries(job: EvaluateJob, manifest: Manifest) -> list[tuple[Subset, CaseEntry]]:
    """The cases to score, with their subset."""
    subsets = job.subsets or tuple(subset for subset in HELD_OUT if manifest.split.cases(subset))
    if not subsets:
        raise UsageError(
            f"{job.shards}: the split holds out no cases, so there is nothing to evaluate; name `--subset train` to "
            "score the cases it was trained on"
        )
    if empty := [subset for subset in subsets if not manifest.split.cases(subset)]:
        filled = [subset for subset in get_args(Subset) if manifest.split.cases(subset)]
        raise UsageError(f"{job.shards}: no case is in {' or '.join(empty)}; subsets with cases: {', '.join(filled)}")
    return [(subset, entry) for subset in subsets for entry in manifest.subset(subset)]


def _score(job: EvaluateJob, trained: TrainedRun, subset: str, entry: CaseEntry) -> Row:
    began = time.perf_counter()
    case = read_case(job.shards, entry)
    probability = predict_on_scan(trained.backend, case, axis=trained.recipe.axis, batch_size=job.batch_size)
    threshold = trained.record.threshold
    counts = overlap.count(case.scan_mask, probability >= np.float32(threshold))
    return {
        "run_id": trained.record.run_id,
        "time_utc": datetime.now(UTC),
        "case": entry.case,
        "subset": subset,
        "checkpoint": job.checkpoint,
        "grid": "scan",
        "threshold": threshold,
        **scores_of(counts, case.grid.voxel_ml),
        "seconds": time.perf_counter() - began,
    }


def scores_of(counts: overlap.Counts, voxel_ml: float) -> Row:
    """The score columns of a `cases` row."""
    return {
        "dice": overlap.dice(counts),
        "iou": overlap.iou(counts),
        "precision": overlap.precision(counts),
        "recall": overlap.recall(counts),
        "specificity": overlap.specificity(counts),
        "volume_error_percent": overlap.volume_error_percent(counts),
        "true_positive": counts.true_positive,
        "false_positive": counts.false_positive,
        "false_negative": counts.false_negative,
        "true_negative": counts.true_negative,
        "truth_ml": (counts.true_positive + counts.false_negative) * voxel_ml,
        "prediction_ml": (counts.true_positive + counts.false_positive) * voxel_ml,
    }
