"""Score a run case by case, on each scan's own grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from mspipeline.config import EvaluateJob
from mspipeline.datasets.split import Subset
from mspipeline.errors import RunFolderError, UsageError
from mspipeline.jobs.work.resources import prediction_settings
from mspipeline.metrics.case import score_case
from mspipeline.metrics.case_masks import CaseMasks
from mspipeline.recipes.prediction import Trained
from mspipeline.recipes.trained import load_trained
from mspipeline.runs import RunPaths, RunRecord, read_record, read_rows, write_rows
from mspipeline.shards.manifest import Manifest, ShardEntry, load_manifest, verify_shards
from mspipeline.tables.schema import AS_DRAWN, CASES, LESIONS, with_scores
from mspipeline.telemetry.events import EventWriter
from mspipeline.training.protocols import Stop

NOT_TRAINED_ON: tuple[Subset, ...] = ("validation", "test")
Row = dict[str, Any]


def evaluate(
    job: EvaluateJob, *, events: EventWriter, stop: Stop, report: Callable[[str, int, int], None] | None = None
) -> list[Row]:
    """Rows of the table `cases` for the subsets asked for, and, written only, those of `lesions`.

    They replace earlier rows of the same cases and labels by the same checkpoint in the run; all others are kept.

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
        trained = load_trained(job.run_folder, prediction_settings(job, stop))
    rows: list[Row] = []
    lesions: list[Row] = []
    with events.phase("evaluate"):
        for done, (subset, entry) in enumerate(entries, start=1):
            truth = manifest.resampled.get(entry.case, {}).get("lesions", AS_DRAWN)
            of_case, lesions_of_case = _score(job, trained, subset, entry, truth)
            rows += of_case
            lesions += lesions_of_case
            if report is not None:
                report(entry.case, done, len(entries))
            if error := stop():
                raise error
    replaced = {_place(row) for row in rows}
    for path, schema, new in ((paths.lesions, LESIONS, lesions), (paths.cases, with_scores(CASES), rows)):
        earlier = read_rows(path, schema)
        kept = [row for row in earlier.to_pylist() if _place(row) not in replaced]
        write_rows(path, sorted(kept + new, key=_place), earlier.schema)
    return rows


def _place(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a row is of: rows of one place replace each other."""
    return str(row["case"]), str(row["label"]), str(row["checkpoint"])


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


def _entries(job: EvaluateJob, manifest: Manifest) -> list[tuple[Subset, ShardEntry]]:
    """The cases to score, with their subset."""
    subsets = job.subsets or tuple(subset for subset in NOT_TRAINED_ON if manifest.split.cases(subset))
    if not subsets:
        raise UsageError(
            f"{job.shards}: the split holds out no cases, so there is nothing to evaluate; name `--subset train` to "
            "score the cases it was trained on"
        )
    if empty := [subset for subset in subsets if not manifest.split.cases(subset)]:
        filled = [subset for subset in get_args(Subset) if manifest.split.cases(subset)]
        raise UsageError(f"{job.shards}: no case is in {' or '.join(empty)}; subsets with cases: {', '.join(filled)}")
    known = {entry.case: entry for entry in manifest.cases}
    return [(subset, known[case]) for subset in subsets for case in manifest.split.cases(subset)]


def _score(
    job: EvaluateJob, trained: Trained, subset: str, entry: ShardEntry, source: str
) -> tuple[list[Row], list[Row]]:
    """The case's row of each label and region, and a row for each of its lesions. source: of the truth, see `AS_DRAWN`.

    seconds: the whole case's, in each of its rows.
    """
    began = time.perf_counter()
    truth, found = trained.shard(job.shards, entry)
    rows: list[Row] = []
    lesions: list[Row] = []
    for region in trained.labels.scored:
        masks = CaseMasks(
            region.of(truth),
            region.of(found.labels),
            spacing_mm=found.grid.spacing_mm,
            affine_ras=found.grid.affine_ras,
            probability=found.probabilities.get(region.name),
        )
        scores, components = score_case(masks, count_components=region.count_components)
        names = {"run_id": trained.record.run_id, "case": entry.case, "label": region.name}
        names |= {"subset": subset, "checkpoint": job.checkpoint}
        rows.append(
            {
                **names,
                "united": " + ".join(region.united) or None,
                "time_utc": datetime.now(UTC),
                "grid": "scan",
                "truth": source,
                "device": trained.device,
                "threshold": trained.record.threshold,
                **scores,
            }
        )
        lesions += [{**names, **asdict(component)} for component in components]
    seconds = time.perf_counter() - began
    return [{**row, "seconds": seconds} for row in rows], lesions
