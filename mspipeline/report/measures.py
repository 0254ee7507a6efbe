"""Numbers per run: every row of the comparison starts from one of these. All work is done by column, none by sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mspipeline.report.tables import Tables

Measure = Mapping[str, float]
"""run_id -> value. A run without a value is absent: nobody measured it."""

PHASES = ("train", "validation", "evaluate")
GB = 1e9

_RUN_COLUMNS = ("trainable_parameters", "non_trainable_parameters", "macs", "train_epoch_seconds", "evaluate_seconds")
_DICE_COLUMNS = ("dice", "dice_slice_hard_smooth1", "dice_slice_soft_smooth1")


def measure_runs(tables: Tables) -> dict[str, Measure]:
    """Every measure of every run, by name; those of a phase are named `<phase>.<measure>`.

    Sampled readings are means over the samples of a phase (`rss_peak_gb`: the maximum). Readings are per host and per
    GPU; a run on several is averaged over them. Energy is summed over GPUs.
    """
    measures: dict[str, Measure] = {name: _column(tables.runs, "run_id", name) for name in _RUN_COLUMNS}
    measures["peak_rss_gb"] = _column(tables.runs, "run_id", "peak_rss_bytes", 1 / GB)
    for subset in ("train", "validation"):
        rows = tables.epochs.filter(pc.equal(tables.epochs["subset"], subset))
        best = aggregate(_last_stage(rows), ["run_id"], [(name, "max") for name in _DICE_COLUMNS])
        for name in _DICE_COLUMNS:
            measures[f"{subset}.best_{name}"] = _column(best, "run_id", f"{name}_max")
        measures[f"{subset}.images_per_second"] = _throughput(rows)
    measures |= _readings(tables.samples)
    measures["energy_per_epoch_kj"] = _energy(tables)
    return measures


def aggregate(table: pa.Table, keys: Sequence[str], parts: Sequence[tuple[str, str]]) -> pa.Table:
    """`table` grouped by `keys`. One thread: sums of floats then come out the same each time."""
    return table.group_by(list(keys), use_threads=False).aggregate(list(parts))


def _last_stage(epochs: pa.Table) -> pa.Table:
    """The epochs without those of a cascade's earlier stages, which were trained on easier patches."""
    stages = epochs.append_column("number", pc.coalesce(epochs["stage"], pa.scalar(0, pa.int32())))
    last = _column(aggregate(stages, ["run_id"], [("number", "max")]), "run_id", "number_max")
    of_run = pa.array([last[run] for run in stages["run_id"].to_pylist()], pa.int32())
    return stages.filter(pc.equal(stages["number"], of_run))


def _column(table: pa.Table, key: str, name: str, scale: float = 1.0) -> dict[str, float]:
    pairs = zip(table[key].to_pylist(), table[name].to_pylist(), strict=True)
    return {run: value * scale if scale != 1 else value for run, value in pairs if value is not None}


def _throughput(epochs: pa.Table) -> dict[str, float]:
    """Images of all epochs over their seconds; epochs without either count in neither sum."""
    known = epochs.filter(pc.and_(pc.is_valid(epochs["images"]), pc.greater(epochs["seconds"], 0)))
    sums = aggregate(known, ["run_id"], [("images", "sum"), ("seconds", "sum")])
    rate = pc.divide(pc.cast(sums["images_sum"], pa.float64()), sums["seconds_sum"])
    return _column(sums.append_column("rate", rate), "run_id", "rate")


def _readings(samples: pa.Table) -> dict[str, Measure]:
    """Means of the readings by phase, from the process trees and from the GPUs."""
    sampled = samples.filter(pc.is_in(samples["phase"], value_set=pa.array(PHASES)))
    total = pc.cast(sampled["gpu_memory_total_bytes"], pa.float64())
    share = pc.divide(
        pc.cast(sampled["gpu_memory_used_bytes"], pa.float64()), pc.if_else(pc.greater(total, 0), total, None)
    )
    sampled = sampled.append_column("gpu_memory_ratio", share)
    wanted = {
        "process_tree": [
            ("cpu_percent", "cpu_utilization_percent", "mean", 1.0),
            ("cpu_allocated_percent", "cpu_utilization_ratio", "mean", 100.0),
            ("rss_gb", "rss_bytes", "mean", 1 / GB),
            ("rss_peak_gb", "rss_bytes", "max", 1 / GB),
        ],
        "gpu": [
            ("gpu_percent", "gpu_utilization_ratio", "mean", 100.0),
            ("gpu_memory_percent", "gpu_memory_ratio", "mean", 100.0),
            ("gpu_memory_busy_percent", "gpu_memory_bandwidth_busy_ratio", "mean", 100.0),
        ],
    }
    measures: dict[str, Measure] = {}
    for scope, readings in wanted.items():
        rows = sampled.filter(pc.equal(sampled["scope"], scope))
        means = aggregate(rows, ["run_id", "phase"], [(column, how) for _, column, how, _ in readings])
        for phase in PHASES:
            of_phase = means.filter(pc.equal(means["phase"], phase))
            for name, column, how, scale in readings:
                measures[f"{phase}.{name}"] = _column(of_phase, "run_id", f"{column}_{how}", scale)
    return measures


def _energy(tables: Tables) -> dict[str, float]:
    """GPU energy of a mean training epoch, in kJ: the GPUs' mean power while training times the epoch's seconds.

    Power is the energy counter's rise within each epoch over the time between its first and last sample, else the mean
    of the power readings. A run with a GPU that gave neither has no value: a sum without it would be too low.
    """
    rows = tables.samples
    rows = rows.filter(pc.and_(pc.equal(rows["scope"], "gpu"), pc.equal(rows["phase"], "train")))
    watts = _counted_watts(rows)
    power = aggregate(rows, ["run_id", "host", "device_uuid"], [("gpu_power_watts", "mean")])
    sums: dict[str, float | None] = {}
    for row in power.to_pylist():
        reading = watts.get((row["run_id"], row["host"], row["device_uuid"]), row["gpu_power_watts_mean"])
        before = sums.get(row["run_id"], 0.0)
        sums[row["run_id"]] = None if reading is None or before is None else before + reading
    train = tables.epochs.filter(pc.equal(tables.epochs["subset"], "train"))
    seconds = _column(aggregate(train, ["run_id"], [("seconds", "mean")]), "run_id", "seconds_mean")
    return {run: total * seconds[run] / 1e3 for run, total in sums.items() if total is not None and run in seconds}


def _counted_watts(rows: pa.Table) -> dict[Any, float]:
    """(run_id, host, device_uuid) -> rise of the energy counter per second of training."""
    device = ["run_id", "host", "device_uuid"]
    counted = rows.filter(pc.and_(pc.is_valid(rows["gpu_energy_joules_total"]), pc.is_valid(rows["epoch"])))
    ends = [(name, end) for name in ("gpu_energy_joules_total", "monotonic_ns") for end in ("min", "max")]
    spans = aggregate(counted, [*device, "restart_count", "epoch"], ends)
    spans = spans.append_column(
        "joules", pc.subtract(spans["gpu_energy_joules_total_max"], spans["gpu_energy_joules_total_min"])
    ).append_column("ns", pc.subtract(spans["monotonic_ns_max"], spans["monotonic_ns_min"]))
    totals = aggregate(spans, device, [("joules", "sum"), ("ns", "sum")]).to_pylist()
    return {
        tuple(row[key] for key in device): row["joules_sum"] / (row["ns_sum"] / 1e9) for row in totals if row["ns_sum"]
    }
