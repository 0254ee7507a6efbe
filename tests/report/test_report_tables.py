from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mspipeline.errors import TableError
from mspipeline.report.tables import load_tables
from mspipeline.tables import schema
from tests.report.report_rows import case_row, run_row


def test_labels_come_back_as_strings_and_nan_as_null(tables_folder: Callable[..., Path]) -> None:
    folder = tables_folder(
        runs=[run_row("b"), run_row("a")], cases=[case_row("a", "sub-01", "test", dice=float("nan"))]
    )
    tables = load_tables(folder)
    assert tables.runs["run_id"].to_pylist() == ["a", "b"]
    assert tables.runs["model"].type == pa.string()
    assert tables.cases["dice"].to_pylist() == [None]


def test_a_missing_table_is_named_with_the_next_step(tables_folder: Callable[..., Path]) -> None:
    folder = tables_folder(runs=[run_row("a")])
    (folder / "cases.parquet").unlink()
    with pytest.raises(TableError, match=r"cases\.parquet: no such table; run `mspipeline collect"):
        load_tables(folder)


def test_another_schema_version_is_refused(tables_folder: Callable[..., Path]) -> None:
    folder = tables_folder(runs=[run_row("a")])
    other = schema.EPOCHS.with_metadata({"table": "epochs", "schema_version": "0"})
    pq.write_table(other.empty_table(), folder / "epochs.parquet")
    with pytest.raises(TableError, match=r"epochs\.parquet: schema version 0, expected 1; run `mspipeline collect"):
        load_tables(folder)


def test_a_missing_column_is_named(tables_folder: Callable[..., Path]) -> None:
    folder = tables_folder(runs=[run_row("a")])
    table = pq.read_table(folder / "cases.parquet").drop_columns(["iou"])
    pq.write_table(table, folder / "cases.parquet")
    with pytest.raises(TableError, match=r"cases\.parquet: columns missing \(iou\)"):
        load_tables(folder)


def test_a_table_made_before_a_column_came_has_nulls_there(tables_folder: Callable[..., Path]) -> None:
    folder = tables_folder(runs=[run_row("a", slurm_job_id="7", partition="cpu", node="c1")])
    assert load_tables(folder).runs["partition"].to_pylist() == ["cpu"]
    table = pq.read_table(folder / "runs.parquet").drop_columns(["slurm_job_id", "partition", "node"])
    pq.write_table(table, folder / "runs.parquet")
    runs = load_tables(folder).runs
    assert [runs[name].to_pylist() for name in ("slurm_job_id", "partition", "node", "host")] == [
        *([[None]] * 3),
        ["node01"],
    ]


def test_a_table_from_before_collapses_were_recorded_has_nulls_for_them(tables_folder: Callable[..., Path]) -> None:
    folder = tables_folder(runs=[run_row("a", collapsed=True, collapsed_to="nothing", collapsed_epoch=4)])
    assert load_tables(folder).runs["collapsed_epoch"].to_pylist() == [4]
    added = ["collapsed", "collapsed_to", "collapsed_epoch"]
    pq.write_table(pq.read_table(folder / "runs.parquet").drop_columns(added), folder / "runs.parquet")
    rows = load_tables(folder).runs.select(added)
    assert rows.to_pylist() == [dict.fromkeys(added)]
    assert [str(field.type) for field in rows.schema] == ["bool", "string", "int32"]


def test_a_torn_table_is_refused(tables_folder: Callable[..., Path]) -> None:
    path = tables_folder(runs=[run_row("a")]) / "runs.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TableError, match=r"runs\.parquet: not a readable Parquet table"):
        load_tables(path.parent)
