"""The collected tables `runs`, `epochs`, `cases` and `samples`, read for a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mspipeline.errors import TableError
from mspipeline.tables import schema

_REMEDY = "run `mspipeline collect RUNS -o {folder}` with this version"

_SAMPLE_COLUMNS = [
    "run_id",
    "host",
    "restart_count",
    "time_utc",
    "monotonic_ns",
    "job",
    "phase",
    "epoch",
    "scope",
    "device_uuid",
    "cpu_utilization_percent",
    "cpu_utilization_ratio",
    "rss_bytes",
    "gpu_utilization_ratio",
    "gpu_memory_used_bytes",
    "gpu_memory_total_bytes",
    "gpu_memory_bandwidth_busy_ratio",
    "gpu_power_watts",
    "gpu_energy_joules_total",
]


@dataclass(frozen=True)
class Tables:
    """The four tables, labels as plain strings, NaN as null: in a report both mean that no value is known.

    runs: sorted by run_id. samples: only the columns that a report reads.
    """

    runs: pa.Table
    epochs: pa.Table
    cases: pa.Table
    samples: pa.Table


def load_tables(folder: Path) -> Tables:
    """Read `folder/{runs,epochs,cases,samples}.parquet`.

    Raises TableError where one is missing, unreadable, or was written with another version of the schema.
    """
    return Tables(
        runs=_read(folder, "runs", schema.RUNS).sort_by("run_id"),
        epochs=_read(folder, "epochs", schema.EPOCHS),
        cases=_read(folder, "cases", schema.CASES),
        samples=_read(folder, "samples", schema.SAMPLES, _SAMPLE_COLUMNS),
    )


def table_path(folder: Path, name: str) -> Path:
    """Where the table `name` lies."""
    return folder / f"{name}.parquet"


def _read(folder: Path, name: str, expected: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    path = table_path(folder, name)
    remedy = _REMEDY.format(folder=folder)
    try:
        found = pq.read_schema(path)
        _check(path, found, expected, remedy)
        wanted = expected if columns is None else pa.schema([expected.field(name) for name in columns])
        added = [field.name for field in schema.added_scores(found)]
        there = [name for name in [*wanted.names, *added] if name in found.names]
        table = schema.completed(pq.read_table(path, columns=there), wanted)
    except FileNotFoundError:
        raise TableError(f"{path}: no such table; {remedy}") from None
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path}: not a readable Parquet table ({error}); {remedy}") from error
    plain = [_plain(table[column]) for column in table.column_names]
    fields = [
        pa.field(each.name, column.type, metadata=each.metadata)
        for each, column in zip(table.schema, plain, strict=True)
    ]
    return pa.table(plain, schema=pa.schema(fields))


def _check(path: Path, found: pa.Schema, expected: pa.Schema, remedy: str) -> None:
    version = (found.metadata or {}).get(b"schema_version", b"none").decode(errors="replace")
    known = schema.readable_versions(expected)
    if version not in known:
        raise TableError(f"{path}: schema version {version}, expected {' or '.join(known)}; {remedy}")
    if missing := schema.missing_columns(found, expected):
        raise TableError(f"{path}: columns missing ({', '.join(missing)}); {remedy}")


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column with dictionaries decoded and NaN made null."""
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        return pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
    return column
