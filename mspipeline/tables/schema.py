"""Arrow schemas of the collected tables. Units stand in each field's metadata; what is not known is null.

The rows that are written beside a running job are in `telemetry.schema`.
"""

from __future__ import annotations

import pyarrow as pa

from mspipeline.labels import LESION
from mspipeline.metrics.scores import SCORES, Score
from mspipeline.telemetry.schema import IDENTITY, LABEL, READINGS, TIME, field_of, schema_of


def _later(name: str, kind: pa.DataType, unit: str = "", *, before: str = "") -> pa.Field:
    """A column that came after the first tables: those lack it, and there it is `before`, or null."""
    words = {"unit": unit, "later": "yes", "before": before}
    return pa.field(name, kind, metadata={key: word for key, word in words.items() if word})


def readable_versions(schema: pa.Schema) -> list[str]:
    """The versions of a table that `completed` can read: its own and those before."""
    return [str(version) for version in range(1, int((schema.metadata or {})[b"schema_version"]) + 1)]


def missing_columns(found: pa.Schema, expected: pa.Schema) -> list[str]:
    """The columns that a table lacks, but for those that came later (see `completed`)."""
    lacking = [field for field in expected if field.name not in found.names]
    return [field.name for field in lacking if b"later" not in (field.metadata or {})]


def completed(table: pa.Table, expected: pa.Schema) -> pa.Table:
    """The columns of `expected`, in its order; one that came later and is not there is null, or as it was before.

    Scores of packages that the table has stay, at its end, whether the package is installed here or not.

    Raises KeyError where another one is missing, ArrowInvalid where one is of another type.
    """
    if missing := missing_columns(table.schema, expected):
        raise KeyError(missing[0])
    for each in added_scores(table.schema):
        if each.name not in expected.names:
            expected = expected.append(each)
    there = set(table.column_names)
    columns = [table[each.name] if each.name in there else _absent(each, table.num_rows) for each in expected]
    return pa.table(columns, schema=expected)


def _absent(field: pa.Field, rows: int) -> pa.Array:
    """The values of a column that a table lacks."""
    before = (field.metadata or {}).get(b"before")
    return pa.nulls(rows, field.type) if before is None else pa.array([before.decode()] * rows, field.type)


SAMPLES = schema_of(
    "samples", [*IDENTITY, field_of("job", LABEL), field_of("phase", LABEL), field_of("epoch", pa.int32()), *READINGS]
)
"""The collected table: the sampler's rows with job, phase and epoch joined from the events."""

EPOCHS = schema_of(
    "epochs",
    [
        field_of("run_id", LABEL),
        field_of("restart_count", pa.int32()),
        field_of("time_utc", TIME, "ns"),
        field_of("epoch", pa.int32()),  # counted from 1, through all stages of a cascade
        field_of("stage", pa.int32()),  # of a cascade, counted from 1; null of one network
        field_of("subset", LABEL),  # "train" or "validation"
        field_of("steps_total", pa.int64()),  # optimizer steps since the start of training
        field_of("images", pa.int64()),
        field_of("seconds", pa.float64(), "s"),
        field_of("images_per_second", pa.float64(), "1/s"),
        field_of("learning_rate", pa.float64()),
        field_of("loss", pa.float64()),
        # Dice of each case's voxels over the epoch, on the training grid; mean over the cases where it is defined.
        field_of("dice", pa.float64()),
        field_of("dice_undefined_cases", pa.int32()),
        # The 2021 report's two per-slice forms, smooth = 1: never compare them with the Dice above.
        field_of("dice_slice_hard_smooth1", pa.float64()),
        field_of("dice_slice_soft_smooth1", pa.float64()),
    ],
)


def _score_type(score: Score) -> pa.DataType:
    return pa.int64() if score.is_count else pa.float64()


AS_DRAWN = "as drawn"
"""The truth of a case: its mask was on the scan's grid, and nothing was done to it."""

_LABEL = _later("label", LABEL, before=LESION)
"""What a row is of. Tables of version 1 have lesions alone."""

CASES = schema_of(
    "cases",
    [
        field_of("run_id", LABEL),
        field_of("time_utc", TIME, "ns"),
        field_of("case", LABEL),
        _LABEL,
        # The labels that a region of this name unites, joined by " + "; null of a label.
        _later("united", LABEL),
        field_of("subset", LABEL),
        field_of("checkpoint", LABEL),
        field_of("grid", LABEL),  # "scan": scored on the scan's own grid
        field_of("threshold", pa.float64()),
        *(
            field_of(score.name, _score_type(score), score.unit) for score in SCORES.built_in.values()
        ),  # undefined is NaN
        field_of("seconds", pa.float64(), "s"),
        _later("device", LABEL),  # that predicted, as the framework names it
        # AS_DRAWN, or how the mask came onto the scan's grid: by the transforms named, or "headers".
        _later("truth", LABEL),
    ],
    version="2",
)
"""A row per case, label or region, and checkpoint. Version 1 had no labels: all rows were of lesions."""


def with_scores(cases: pa.Schema) -> pa.Schema:
    """A schema of `cases` with the scores that packages add; their fields say what a page needs to show them."""
    added = [score for name, score in SCORES.working().items() if name not in SCORES.built_in]
    for score in added:
        words = {"unit": score.unit, "later": "yes", "score": score.definition, "format": score.format}
        titles = {"heading": score.heading or score.name, "row": score.row}
        cases = cases.append(pa.field(score.name, _score_type(score), metadata={**words, **titles}))
    return cases


def added_scores(table: pa.Schema) -> list[pa.Field]:
    """The fields of a table of cases that are scores of packages."""
    return [field for field in table if b"score" in (field.metadata or {})]


LESIONS = schema_of(
    "lesions",
    [
        # One row per 6-connected component of a case's truth and of its prediction, of each label whose components are
        # counted; see metrics.lesion.LesionRow.
        field_of("run_id", LABEL),
        field_of("case", LABEL),
        _LABEL,
        field_of("subset", LABEL),
        field_of("checkpoint", LABEL),
        field_of("mask", LABEL),  # "truth" or "prediction"
        field_of("lesion", pa.int32()),  # from 1, by decreasing size
        field_of("size_vox", pa.int64(), "voxels"),
        field_of("size_mm3", pa.float64(), "mm^3"),
        field_of("x_mm", pa.float64(), "mm, RAS+"),
        field_of("y_mm", pa.float64(), "mm, RAS+"),
        field_of("z_mm", pa.float64(), "mm, RAS+"),
        field_of("overlap_vox", pa.int64(), "voxels"),
        field_of("detected_any_voxel", pa.bool_()),
        field_of("detected_msseg2016", pa.bool_()),  # null where it has 3 mm^3 or less and does not count there
    ],
    version="2",
)

RUNS = schema_of(
    "runs",
    [
        field_of("run_id", pa.string()),
        field_of("campaign", LABEL),
        field_of("cell", pa.string()),
        field_of("status", LABEL),  # "complete", "running", "interrupted", "failed"
        field_of("model", LABEL),
        field_of("model_arguments", pa.string()),  # JSON
        field_of("backend", LABEL),
        field_of("backend_version", LABEL),
        field_of("device", LABEL),
        field_of("seed", pa.int64()),
        # What it was trained with; null of runs from before they kept it, and of imported ones.
        _later("optimizer", LABEL),
        _later("learning_rate", pa.float64()),  # before warm-up and schedule
        _later("batch_size", pa.int32()),
        field_of("started_utc", TIME, "ns"),
        field_of("ended_utc", TIME, "ns"),
        field_of("restart_count", pa.int32()),
        field_of("epochs", pa.int32()),
        field_of("best_epoch", pa.int32()),
        field_of("monitor", LABEL),
        field_of("trainable_parameters", pa.int64()),
        field_of("non_trainable_parameters", pa.int64()),
        field_of("macs", pa.int64(), "multiply-accumulates of one image's forward pass"),
        field_of("train_epoch_seconds", pa.float64(), "s"),  # median over epochs
        field_of("evaluate_seconds", pa.float64(), "s"),
        field_of("peak_rss_bytes", pa.int64(), "bytes"),
        field_of("graph_hash", pa.string()),
        field_of("dataset_hash", pa.string()),
        field_of("split_hash", pa.string()),
        field_of("recipe_hash", pa.string()),
        field_of("config_hash", pa.string()),
        field_of("commit", pa.string()),
        field_of("image_digest", pa.string()),
        field_of("host", LABEL),
        # Of the job of SLURM that trained last; null elsewhere. See mspipeline.provenance.slurm_job.
        _later("slurm_job_id", pa.string()),
        _later("partition", LABEL),
        _later("node", LABEL),
        field_of("cpu_model", LABEL),
        field_of("cpus_allocated", pa.int32()),
        field_of("threads", pa.int32()),
        field_of("memory_bytes", pa.int64(), "bytes"),
        field_of("gpu_name", LABEL),
        field_of("gpu_driver", LABEL),
        field_of("versions", pa.string()),  # JSON: package -> version
        field_of("problem", pa.string()),  # why the training could not begin
        field_of("certificates", pa.string()),  # JSON: a list of mspipeline.runs.CertificateNote
        field_of("uncertified", pa.string()),  # why no certificate covers the run; null or empty where none was sought
        # Whether it ended predicting one and the same for all voxels, for several epochs; null where that is not known.
        _later("collapsed", pa.bool_()),
        _later("collapsed_to", LABEL),  # "nothing" or "everything"
        _later("collapsed_epoch", pa.int32()),  # the first epoch of those, counted through all stages of a cascade
        _later("telemetry_complete", pa.bool_()),  # false where samples or phases of an attempt were cut off or lost
    ],
)
