"""What is written beside a job while it runs, row by row: the sampler's readings and the phases of the job.

Units stand in each field's metadata; a reading that failed is null. `*_utc` is wall-clock time, `monotonic_ns` the
clock on which the streams of one host are joined.
"""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

VERSION = "1"
"""Of all streams, and of tables that say no other."""

LABEL = pa.dictionary(pa.int32(), pa.string())
TIME = pa.timestamp("ns", tz="UTC")


def field_of(name: str, kind: pa.DataType, unit: str = "") -> pa.Field:
    """A column with its unit."""
    return pa.field(name, kind, metadata={"unit": unit} if unit else None)


def schema_of(table: str, fields: list[pa.Field], *, version: str = VERSION) -> pa.Schema:
    """The schema of a stream or table, with its name and version."""
    return pa.schema(fields, metadata={"table": table, "schema_version": version})


IDENTITY = [
    field_of("run_id", LABEL),
    field_of("host", LABEL),
    field_of("rank", pa.int32()),
    field_of("restart_count", pa.int32()),
    field_of("time_utc", TIME, "ns"),
    field_of("monotonic_ns", pa.int64(), "ns"),
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


READINGS = [
    # One row per sample for the job's process tree (scope "process_tree") and one per GPU (scope "gpu").
    field_of("scope", LABEL),
    field_of("device_uuid", LABEL),
    field_of("cpu_utilization_percent", pa.float64(), "percent of one core, as in top"),
    field_of("cpu_utilization_ratio", pa.float64(), "1 = all allocated cores"),
    field_of("cpu_seconds_total", pa.float64(), "s"),
    field_of("processes", pa.int32()),
    field_of("threads", pa.int32()),
    field_of("rss_bytes", pa.int64(), "bytes"),
    field_of("pss_bytes", pa.int64(), "bytes"),
    field_of("read_bytes_total", pa.int64(), "bytes"),
    field_of("write_bytes_total", pa.int64(), "bytes"),
    field_of("gpu_utilization_ratio", pa.float64(), "1 = a kernel ran all the time"),
    field_of("gpu_memory_used_bytes", pa.int64(), "bytes"),
    field_of("gpu_memory_total_bytes", pa.int64(), "bytes"),
    field_of("gpu_memory_bandwidth_busy_ratio", pa.float64(), "1 = the memory controller was busy all the time"),
    field_of("gpu_power_watts", pa.float64(), "W"),
    field_of("gpu_energy_joules_total", pa.float64(), "J"),
    field_of("gpu_temperature_celsius", pa.float64(), "degree Celsius"),
    field_of("sampler_cpu_seconds_total", pa.float64(), "s"),
]

SAMPLES_STREAM = schema_of("samples", [*IDENTITY, *READINGS])
"""What the sampler writes beside a job."""

EVENTS = schema_of(
    "events",
    [
        *IDENTITY,
        field_of("kind", LABEL),  # "begin" or "end"
        # "setup", "train", "validation", "mining", "evaluate", "predict", "prepare", "checkpoint"
        field_of("phase", LABEL),
        field_of("epoch", pa.int32()),  # counted from 1; null outside epochs
    ],
)
