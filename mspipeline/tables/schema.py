"""Arrow schemas of every row the suite stores. Units stand in each field's metadata; a reading that failed is null.

`*_utc` is wall-clock time, `monotonic_ns` the clock on which the streams of one host are joined.
"""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from mspipeline.metrics.scores import SCORES, Score

VERSION = "1"

_LABEL = pa.dictionary(pa.int32(), pa.string())
_TIME = pa.timestamp("ns", tz="UTC")


def _field(name: str, kind: pa.DataType, unit: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit} if unit else None)


def _later(name: str, kind: pa.DataType, unit: str = "") -> pa.Field:
    """A column that came after the first tables of this version: those lack it, and there it is null."""
    return pa.field(name, kind, metadata={"unit": unit, "later": "yes"} if unit else {"later": "yes"})


def _schema(table: str, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(fields, metadata={"table": table, "schema_version": VERSION})


def missing_columns(found: pa.Schema, expected: pa.Schema) -> list[str]:
    """The columns that a table lacks, but for those that came later (see `completed`)."""
    lacking = [field for field in expected if field.name not in found.names]
    return [field.name for field in lacking if b"later" not in (field.metadata or {})]


def completed(table: pa.Table, expected: pa.Schema) -> pa.Table:
    """The columns of `expected`, in its order; one that came later and is not in the table is null.

    Scores of packages that the table has stay, at its end, whether the package is installed here or not.

    Raises KeyError where another one is missing, ArrowInvalid where one is of another type.
    """
    if missing := missing_columns(table.schema, expected):
        raise KeyError(missing[0])
    for each in added_scores(table.schema):
        if each.name not in expected.names:
            expected = expected.append(each)
    there = set(table.column_names)
    columns = [table[each.name] if each.name in there else pa.nulls(table.num_rows, each.type) for each in expected]
    return pa.table(columns, schema=expected)


_IDENTITY = [
    _field("run_id", _LABEL),
    _field("host", _LABEL),
    _field("rank", pa.int32()),
    _field("restart_count", pa.int32()),
    _field("time_utc", _TIME, "ns"),
    _field("monotonic_ns", pa.int64(), "ns"),
]


@dataclass(frozen=True)
class Identity:
    """Whose rows a stream holds: the columns that are the same in each of its rows."""

    run_id: str
    restart_count: int = 0
    rank: int = 0
    host: str = field(default_factory=platform.node)

    def stamp(self) -> dict[str, Any]:
        """The leading columns of a row that is made now."""
        return {**asdict(self), "time_utc": time.time_ns(), "monotonic_ns": time.monotonic_ns()}


_READINGS = [
    # One row per sample for the job's process tree (scope "process_tree") and one per GPU (scope "gpu").
    _field("scope", _LABEL),
    _field("device_uuid", _LABEL),
    _field("cpu_utilization_percent", pa.float64(), "percent of one core, as in top"),
    _field("cpu_utilization_ratio", pa.float64(), "1 = all allocated cores"),
    _field("cpu_seconds_total", pa.float64(), "s"),
    _field("processes", pa.int32()),
    _field("threads", pa.int32()),
    _field("rss_bytes", pa.int64(), "bytes"),
    _field("pss_bytes", pa.int64(), "bytes"),
    _field("read_bytes_total", pa.int64(), "bytes"),
    _field("write_bytes_total", pa.int64(), "bytes"),
    _field("gpu_utilization_ratio", pa.float64(), "1 = a kernel ran all the time"),
    _field("gpu_memory_used_bytes", pa.int64(), "bytes"),
    _field("gpu_memory_total_bytes", pa.int64(), "bytes"),
    _field("gpu_memory_bandwidth_busy_ratio", pa.float64(), "1 = the memory controller was busy all the time"),
    _field("gpu_power_watts", pa.float64(), "W"),
    _field("gpu_energy_joules_total", pa.float64(), "J"),
    _field("gpu_temperature_celsius", pa.float64(), "degree Celsius"),
    _field("sampler_cpu_seconds_total", pa.float64(), "s"),
]

SAMPLES_STREAM = _schema("samples", [*_IDENTITY, *_READINGS])
"""What the sampler writes beside a job."""

SAMPLES = _schema(
    "samples", [*_IDENTITY, _field("job", _LABEL), _field("phase", _LABEL), _field("epoch", pa.int32()), *_READINGS]
)
"""The collected table: the sampler's rows with job, phase and epoch joined from the events."""

EVENTS = _schema(
    "events",
    [
        *_IDENTITY,
        _field("kind", _LABEL),  # "begin" or "end"
        # "setup", "train", "validation", "mining", "evaluate", "predict", "prepare", "checkpoint"
        _field("phase", _LABEL),
        _field("epoch", pa.int32()),  # counted from 1; null outside epochs
    ],
)

EPOCHS = _schema(
    "epochs",
    [
        _field("run_id", _LABEL),
        _field("restart_count", pa.int32()),
        _field("time_utc", _TIME, "ns"),
        _field("epoch", pa.int32()),  # counted from 1, through all stages of a cascade
        _field("stage", pa.int32()),  # of a cascade, counted from 1; null of one network
        _field("subset", _LABEL),  # "train" or "validation"
        _field("steps_total", pa.int64()),  # optimizer steps since the start of training
        _field("images", pa.int64()),
        _field("seconds", pa.float64(), "s"),
        _field("images_per_second", pa.float64(), "1/s"),
        _field("learning_rate", pa.float64()),
        _field("loss", pa.float64()),
        # Dice of each case's voxels over the epoch, on the training grid; mean over the cases where it is defined.
        _field("dice", pa.float64()),
        _field("dice_undefined_cases", pa.int32()),
        # The 2021 report's two per-slice forms, smooth = 1: never compare them with the Dice above.
        _field("dice_slice_hard_smooth1", pa.float64()),
        _field("dice_slice_soft_smooth1", pa.float64()),
    ],
)


def _score_field(score: Score) -> pa.Field:
    return _field(score.name, pa.int64() if score.is_count else pa.float64(), score.unit)


AS_DRAWN = "as drawn"
"""The truth of a case: its mask was on the scan's grid, and nothing was done to it."""

CASES = _schema(
    "cases",
    [
        _field("run_id", _LABEL),
        _field("time_utc", _TIME, "ns"),
        _field("case", _LABEL),
        _field("subset", _LABEL),
        _field("checkpoint", _LABEL),
        _field("grid", _LABEL),  # "scan": scored on the scan's own grid
        _field("threshold", pa.float64()),
        *(_score_field(score) for score in SCORES.built_in.values()),  # undefined is NaN
        _field("seconds", pa.float64(), "s"),
        _later("device", _LABEL),  # that predicted, as the framework names it
        # AS_DRAWN, or how the mask came onto the scan's grid: by the transforms named, or "headers".
        _later("truth", _LABEL),
    ],
)


def with_scores(cases: pa.Schema) -> pa.Schema:
    """A schema of `cases` with the scores that packages add; their fields say what a page needs to show them."""
    added = [score for name, score in SCORES.working().items() if name not in SCORES.built_in]
    for score in added:
        words = {"unit": score.unit, "later": "yes", "score": score.definition, "format": score.format}
        titles = {"heading": score.heading or score.name, "row": score.row}
        kind = pa.int64() if score.is_count else pa.float64()
        cases = cases.append(pa.field(score.name, kind, metadata={**words, **titles}))
    return cases


def added_scores(table: pa.Schema) -> list[pa.Field]:
    """The fields of a table of cases that are scores of packages."""
    return [field for field in table if b"score" in (field.metadata or {})]


LESIONS = _schema(
    "lesions",
    [
        # One row per 6-connected component of a case's truth and of its prediction; see metrics.lesion.LesionRow.
        _field("run_id", _LABEL),
        _field("case", _LABEL),
        _field("subset", _LABEL),
        _field("checkpoint", _LABEL),
        _field("mask", _LABEL),  # "truth" or "prediction"
        _field("lesion", pa.int32()),  # from 1, by decreasing size
        _field("size_vox", pa.int64(), "voxels"),
        _field("size_mm3", pa.float64(), "mm^3"),
        _field("x_mm", pa.float64(), "mm, RAS+"),
        _field("y_mm", pa.float64(), "mm, RAS+"),
        _field("z_mm", pa.float64(), "mm, RAS+"),
        _field("overlap_vox", pa.int64(), "voxels"),
        _field("detected_any_voxel", pa.bool_()),
        _field("detected_msseg2016", pa.bool_()),  # null where it has 3 mm^3 or less and does not count there
    ],
)

RUNS = _schema(
    "runs",
    [
        _field("run_id", pa.string()),
        _field("campaign", _LABEL),
        _field("cell", pa.string()),
        _field("status", _LABEL),  # "complete", "running", "interrupted", "failed"
        _field("model", _LABEL),
        _field("model_arguments", pa.string()),  # JSON
        _field("backend", _LABEL),
        _field("backend_version", _LABEL),
        _field("device", _LABEL),
        _field("seed", pa.int64()),
        _field("started_utc", _TIME, "ns"),
        _field("ended_utc", _TIME, "ns"),
        _field("restart_count", pa.int32()),
        _field("epochs", pa.int32()),
        _field("best_epoch", pa.int32()),
        _field("monitor", _LABEL),
        _field("trainable_parameters", pa.int64()),
        _field("non_trainable_parameters", pa.int64()),
        _field("macs", pa.int64(), "multiply-accumulates of one image's forward pass"),
        _field("train_epoch_seconds", pa.float64(), "s"),  # median over epochs
        _field("evaluate_seconds", pa.float64(), "s"),
        _field("peak_rss_bytes", pa.int64(), "bytes"),
        _field("graph_hash", pa.string()),
        _field("dataset_hash", pa.string()),
        _field("split_hash", pa.string()),
        _field("recipe_hash", pa.string()),
        _field("config_hash", pa.string()),
        _field("commit", pa.string()),
        _field("image_digest", pa.string()),
        _field("host", _LABEL),
        # Of the job of SLURM that trained last; null elsewhere. See mspipeline.provenance.slurm_job.
        _later("slurm_job_id", pa.string()),
        _later("partition", _LABEL),
        _later("node", _LABEL),
        _field("cpu_model", _LABEL),
        _field("cpus_allocated", pa.int32()),
        _field("threads", pa.int32()),
        _field("memory_bytes", pa.int64(), "bytes"),
        _field("gpu_name", _LABEL),
        _field("gpu_driver", _LABEL),
        _field("versions", pa.string()),  # JSON: package -> version
        _field("problem", pa.string()),  # why the training could not begin
        _field("certificates", pa.string()),  # JSON: a list of mspipeline.runs.CertificateNote
        _field("uncertified", pa.string()),  # why no certificate covers the run; null or empty where none was sought
        # Whether it ended predicting one and the same for all voxels, for several epochs; null where that is not known.
        _later("collapsed", pa.bool_()),
        _later("collapsed_to", _LABEL),  # "nothing" or "everything"
        _later("collapsed_epoch", pa.int32()),  # the first epoch of those, counted through all stages of a cascade
        _later("telemetry_complete", pa.bool_()),  # false where samples or phases of an attempt were cut off or lost
    ],
)
