from __future__ import annotations

import platform
import time
from dataclasses import fields

import pyarrow as pa
import pytest

from mspipeline.tables.schema import RUNS, SAMPLES, completed, missing_columns
from mspipeline.telemetry.cpu import CpuReading
from mspipeline.telemetry.gpu import GpuReading
from mspipeline.telemetry.schema import EVENTS, SAMPLES_STREAM, Identity


def test_a_stamp_fills_the_leading_columns_with_the_clocks_of_now() -> None:
    before = time.time_ns(), time.monotonic_ns()
    stamp = Identity("r1", restart_count=2, rank=3).stamp()
    after = time.time_ns(), time.monotonic_ns()
    assert list(stamp) == ["run_id", "restart_count", "rank", "host", "time_utc", "monotonic_ns"]
    assert (stamp["run_id"], stamp["restart_count"], stamp["rank"], stamp["host"]) == ("r1", 2, 3, platform.node())
    assert before[0] <= stamp["time_utc"] <= after[0]
    assert before[1] <= stamp["monotonic_ns"] <= after[1]


def test_every_field_of_a_reading_is_a_column() -> None:
    columns = set(SAMPLES_STREAM.names)
    assert {field.name for reading in (CpuReading, GpuReading) for field in fields(reading)} < columns


def test_the_collected_samples_add_job_phase_and_epoch() -> None:
    assert set(SAMPLES.names) - set(SAMPLES_STREAM.names) == {"job", "phase", "epoch"}


def test_every_quantity_states_its_unit() -> None:
    for schema in (SAMPLES_STREAM, EVENTS):
        for field in schema:
            if field.name.endswith(("_bytes", "_seconds_total", "_watts", "_joules_total", "_ratio", "_ns")):
                assert field.metadata, field.name
                assert field.metadata[b"unit"], field.name
    assert pa.types.is_timestamp(EVENTS.field("time_utc").type)


def test_only_a_column_that_came_later_may_be_missing_and_is_null_then() -> None:
    old = pa.schema([field for field in RUNS if field.name not in ("node", "partition", "slurm_job_id")])
    assert missing_columns(old, RUNS) == []
    row = {"run_id": "a", "host": "n1"}
    table = completed(pa.Table.from_pylist([row], schema=old), RUNS)
    assert table.schema.names == RUNS.names
    assert table.select(["run_id", "host", "node"]).to_pylist() == [{"run_id": "a", "host": "n1", "node": None}]
    older = old.remove(old.get_field_index("host"))
    assert missing_columns(older, RUNS) == ["host"]
    with pytest.raises(KeyError, match="host"):
        completed(older.empty_table(), RUNS)
