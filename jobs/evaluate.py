"""Score a run case by case, on each scan's own grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from mspipeline.backends.base import Execution
from mspipeline.config import EvaluateJob
from mspipeline.datasets.split import Subset
from mspipeline.errors import RunFolderError, UsageError
from mspipeline.inference.postprocess import LesionMap, lesion_mask
from mspipeline.inference.trained import TrainedCascade, TrainedRun, load_any
from mspipeline.inference.windows import predict_on_scan
from mspipeline.jobs.resources import patches_or, slices_or, threads_for
from mspipeline.metrics.case import score_case
from mspipeline.runs import RunPaths, RunRecord, read_record, read_rows, write_rows
from mspipeline.shards.manifest import CaseEntry, Entry, Manifest, PatchEntry, load_manifest, verify_shards
from mspipeline.shards.reader import read_case
from mspipeline.tables.schema import AS_DRAWN, CASES, LESIONS
from mspipeline.telemetry.events import EventWriter
from mspipeline.training.protocols import Stop
from mspipeline.volume import BoolArray

NOT_TRAINED_ON: tuple[Subset, ...] = ("validation", "test")
Row = dict[str, Any]


def evaluate(
    job: EvaluateJob, *, events: EventWriter, stop: Stop, report: Callable[[str, int, int], None] | None = None
) -> list[Row]:
    """Rows of the table `cases` for the subsets asked for, and, written only, those of `lesions`.

    They replace earlier rows of the same cases by the same checkpoint in the run; all others are kept.

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
        trained = load_any(
            job.run_folder,
            job.checkpoint,
            Execution(job.device, threads_for(job.threads)),
            inference=job.inference,
            memory_budget_mb=job.memory_budget_mb,
        )
    rows: list[Row] = []
    lesions: list[Row] = []
    with events.phase("evaluate"):
        for subset, entry in entries:
            truth = manifest.resampled.get(entry.case, {}).get("lesions", AS_DRAWN)
            row, of_case = _score(job, trained, subset, entry, truth, stop)
            rows.append(row)
            lesions += of_case
            if report is not None:
                report(entry.case, len(rows), len(entries))
            if error := stop():
                raise error
    replaced = {_place(row) for row in rows}
    for path, schema, new in ((paths.lesions, LESIONS, lesions), (paths.cases, CASES, rows)):
        kept = [row for row in read_rows(path, schema).to_pylist() if _place(row) not in replaced]
        write_rows(path, sorted(kept + new, key=_place), schema)
    return rows


def _place(row: Mapping[str, Any]) -> tuple[str, str]:
    """What a row is of: rows of one place replace each other."""
    return str(row["case"]), str(row["checkpoint"])


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


def _entries(job: EvaluateJob, manifest: Manifest) -> list[tuple[Subset, Entry]]:
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
    job: EvaluateJob, trained: TrainedRun | TrainedCascade, subset: str, entry: Entry, source: str, stop: Stop
) -> tuple[Row, list[Row]]:
    """The case's row, and a row for each of its lesions. source: of the truth, see `AS_DRAWN`."""
    began = time.perf_counter()
    if isinstance(trained, TrainedCascade) and isinstance(entry, PatchEntry):
        truth, found = _by_patches(job, trained, entry, stop)
    elif isinstance(trained, TrainedRun) and isinstance(entry, CaseEntry):
        truth, found = _by_slices(job, trained, entry)
    else:
        raise RunFolderError(f"{job.run_folder}: cannot be scored on {job.shards}; name the shards it was trained on")
    scores, lesions = score_case(
        truth,
        found.mask,
        spacing_mm=found.grid.spacing_mm,
        affine_ras=found.grid.affine_ras,
        probability=found.probability,
    )
    names = {"run_id": trained.record.run_id, "case": entry.case, "subset": subset, "checkpoint": job.checkpoint}
    row = {
        **names,
        "time_utc": datetime.now(UTC),
        "grid": "scan",
        "truth": source,
        "device": trained.device,
        "threshold": trained.record.threshold,
        **scores,
        "seconds": time.perf_counter() - began,
    }
    return row, [{**names, **asdict(lesion)} for lesion in lesions]


def _by_slices(job: EvaluateJob, trained: TrainedRun, entry: CaseEntry) -> tuple[BoolArray, LesionMap]:
    case = read_case(job.shards, entry)
    batch_size = slices_or(job.batch_size)
    probability = predict_on_scan(
        trained.backend, trained.channels, case, axis=trained.recipe.axis, batch_size=batch_size
    )
    mask = lesion_mask(probability, threshold=trained.record.threshold)
    return case.scan_mask, LesionMap(probability, mask, case.grid)


def _by_patches(
    job: EvaluateJob, trained: TrainedCascade, entry: PatchEntry, stop: Stop
) -> tuple[BoolArray, LesionMap]:
    from mspipeline.inference.lesion_map import map_lesions  # loads numba, which takes a while
    from mspipeline.shards.patch_reader import read_patch_case

    def still_wanted() -> None:
        if error := stop():
            raise error

    case = read_patch_case(job.shards, entry)
    return case.scan_mask, map_lesions(
        trained,
        case.image,
        case.voxels.candidates,
        case.grid,
        batch_size=patches_or(job.batch_size),
        threads=threads_for(job.threads),
        between_batches=still_wanted,
    )
