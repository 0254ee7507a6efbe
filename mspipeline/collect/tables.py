"""Run folders to tables: one row a run, its epochs, cases and samples, each table one Parquet file."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mspipeline.collect.merge import phase_seconds, phases_at
from mspipeline.errors import DataError, Interrupted, Preempted, TableError
from mspipeline.files import read_json, whole_file
from mspipeline.runs import RunPaths, RunRecord, TelemetryPaths, read_record, read_rows
from mspipeline.telemetry.schema import CASES, EPOCHS, EVENTS, LESIONS, RUNS, SAMPLES, SAMPLES_STREAM
from mspipeline.telemetry.shard import read_stream

SCHEMAS = {"runs": RUNS, "epochs": EPOCHS, "cases": CASES, "lesions": LESIONS, "samples": SAMPLES}


@dataclass(frozen=True)
class Collected:
    """tables: by name, as they were written. problems: a line for each run folder that was left out."""

    tables: dict[str, pa.Table]
    problems: tuple[str, ...]


def collect(runs: Path, output: Path) -> Collected:
    """Gather every run folder below `runs`, or `runs` itself, into one `output/<table>.parquet` for each of SCHEMAS.

    Rows are in the order of run IDs, then as they were made: the same runs give the same tables. A run folder that is
    broken is left out, whole, and named in `problems`; so are two that hold one run. Telemetry that is missing or was
    cut off is not a problem: what it would say is null.
    Raises TableError where there is no run folder at all, StorageError where `output` cannot be written.
    """
    folders = list(find_runs(runs))
    if not folders:
        raise TableError(f"{runs}: no run folder in it (none holds run.json); name the folder that `train -o` wrote to")
    problems: list[str] = []
    records: dict[Path, RunRecord] = {}
    for folder in folders:
        try:
            records[folder] = read_record(RunPaths(folder))
        except DataError as error:
            problems.append(str(error))
    for run_id, twins in _by_id(records).items():
        if len(twins) > 1:
            names = ", ".join(str(folder) for folder in twins)
            problems.append(f"run {run_id} is in {len(twins)} folders: {names}; move all but one elsewhere")
            for folder in twins:
                del records[folder]
    parts: dict[str, list[pa.Table]] = {name: [schema.empty_table()] for name, schema in SCHEMAS.items()}
    for folder, record in sorted(records.items(), key=lambda item: item[1].run_id):
        try:
            tables = collect_run(RunPaths(folder), record)
        except DataError as error:
            problems.append(str(error))
            continue
        for name, table in tables.items():
            parts[name].append(table)
    joined = {name: pa.concat_tables(tables).unify_dictionaries().combine_chunks() for name, tables in parts.items()}
    for name, table in joined.items():
        with whole_file(output / f"{name}.parquet") as partial:
            pq.write_table(table, partial, compression="zstd")
    return Collected(joined, tuple(problems))


def find_runs(folder: Path) -> Iterator[Path]:
    """Every folder that holds `run.json`, in order; nothing is looked for inside one. Links are not followed."""
    for name, subfolders, files in os.walk(folder):
        subfolders.sort()
        if RunPaths(Path(name)).record.name in files:
            subfolders.clear()
            yield Path(name)


def collect_run(paths: RunPaths, record: RunRecord) -> dict[str, pa.Table]:
    """The tables of one run. Raises DataError, naming the file, where one is damaged or of another run."""
    epochs, cases = read_rows(paths.epochs, EPOCHS), read_rows(paths.cases, CASES)
    lesions = read_rows(paths.lesions, LESIONS)
    attempts = [_Attempt.read(telemetry) for telemetry in paths.attempts()]
    samples = pa.concat_tables([SAMPLES.empty_table(), *(_labelled(attempt) for attempt in attempts)])
    of = ((epochs, paths.epochs), (cases, paths.cases), (lesions, paths.lesions), (samples, paths.telemetry))
    for table, source in of:
        others = set(pc.unique(table.column("run_id").combine_chunks()).to_pylist()) - {record.run_id}
        if others:
            raise TableError(f"{source}: holds rows of {sorted(map(str, others))}, expected run {record.run_id}")
    row = _run_row(record, epochs, attempts, where=paths.record)
    try:
        runs = pa.Table.from_pylist([row], schema=RUNS)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise TableError(f"{paths.record}: does not fit the table of runs ({error}); run the job again") from error
    return {
        "runs": runs,
        "epochs": epochs,
        "cases": cases,
        "lesions": lesions,
        "samples": samples.unify_dictionaries(),
    }


@dataclass(frozen=True)
class _Attempt:
    """The telemetry of one attempt. exit_code, peak_rss_bytes: None where its supervisor left no word."""

    job: str
    samples: pa.Table
    events: pa.Table
    exit_code: int | None
    peak_rss_bytes: int | None

    @staticmethod
    def read(paths: TelemetryPaths) -> _Attempt:
        samples = read_stream(paths.samples, SAMPLES_STREAM) if paths.samples.exists() else SAMPLES_STREAM.empty_table()
        events = read_stream(paths.events, EVENTS) if paths.events.exists() else EVENTS.empty_table()
        if not paths.exit.exists():
            peak = pc.max(samples.column("rss_bytes")).as_py()
            return _Attempt(paths.job, samples, events, None, peak)
        ending = read_json(paths.exit, what="record of an ended job", remedy="remove this telemetry folder")
        try:
            return _Attempt(paths.job, samples, events, ending["exit_code"], ending["peak_rss_bytes"])
        except (KeyError, TypeError) as error:
            raise TableError(f"{paths.exit}: lacks {error}; remove this telemetry folder") from error


def _labelled(attempt: _Attempt) -> pa.Table:
    """The attempt's samples with job, phase and epoch."""
    samples = attempt.samples
    times_ns = samples.column("monotonic_ns").to_numpy()
    phase, epoch = phases_at(times_ns, attempt.events)
    job = pa.array([attempt.job] * len(samples), SAMPLES.field("job").type)
    added = {"job": job, "phase": phase, "epoch": epoch}
    columns = [added[name] if name in added else samples.column(name) for name in SAMPLES.names]
    return pa.table(columns, schema=SAMPLES)


def _run_row(record: RunRecord, epochs: pa.Table, attempts: list[_Attempt], where: Path) -> dict[str, Any]:
    source = record.provenance
    seconds = epochs.filter(pc.equal(epochs.column("subset").cast(pa.string()), "train")).column("seconds")
    evaluations = [phase_seconds(attempt.events, "evaluate") for attempt in attempts if attempt.job == "evaluate"]
    known_seconds = [value for value in seconds.to_pylist() if value is not None]
    known_evaluations = [value for value in evaluations if value is not None]
    known_peaks = [attempt.peak_rss_bytes for attempt in attempts if attempt.peak_rss_bytes is not None]
    from_record = {name: getattr(record, name) for name in RUNS.names if name in RunRecord.model_fields}
    from_source = {name: source.get(name) for name in RUNS.names if name not in RunRecord.model_fields}
    return {
        **from_source,
        **from_record,
        "status": _status(record, attempts),
        "model_arguments": json.dumps(record.model_arguments, sort_keys=True),
        "certificates": json.dumps([note.model_dump(mode="json") for note in record.certificates]),
        "started_utc": _time(record.started_utc, where),
        "ended_utc": None if record.ended_utc is None else _time(record.ended_utc, where),
        "train_epoch_seconds": statistics.median(known_seconds) if known_seconds else None,
        "evaluate_seconds": known_evaluations[-1] if known_evaluations else None,
        "peak_rss_bytes": max(known_peaks, default=None),
        "versions": json.dumps(source["versions"], sort_keys=True) if "versions" in source else None,
    }


def _status(record: RunRecord, attempts: list[_Attempt]) -> str:
    """The record's own word, but a training that died without writing it is not running any more."""
    codes = [attempt.exit_code for attempt in attempts if attempt.job == "train"]
    if record.status != "running" or not codes or not codes[-1]:
        return record.status
    return "interrupted" if codes[-1] in (Preempted.exit_code, Interrupted.exit_code) else "failed"


def _time(text: str, where: Path) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise TableError(f"{where}: {text!r} is no time, expected ISO 8601; run the job again") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _by_id(records: dict[Path, RunRecord]) -> dict[str, list[Path]]:
    folders: dict[str, list[Path]] = {}
    for folder, record in records.items():
        folders.setdefault(record.run_id, []).append(folder)
    return folders
