"""Run folders to tables: one row a run, its epochs, cases and samples, each table one Parquet file."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
from mspipeline.runs import RunPaths, RunRecord, TelemetryPaths, ended_path, read_record, read_rows
from mspipeline.tables.schema import CASES, EPOCHS, LESIONS, RUNS, SAMPLES
from mspipeline.telemetry.schema import EVENTS, SAMPLES_STREAM
from mspipeline.telemetry.shard import ended, read_stream

SCHEMAS = {"runs": RUNS, "epochs": EPOCHS, "cases": CASES, "lesions": LESIONS, "samples": SAMPLES}


@dataclass(frozen=True)
class Collected:
    """tables: by name, as they were written.

    problems: a line for each thing that was left out and should not be: a run folder, a folder that cannot be read.
    notes: a line for what was left out on purpose.
    """

    tables: dict[str, pa.Table]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise TableError where something was left out that should not be: the first on its line, the others below."""
        if self.problems:
            error = TableError(f"{len(self.problems)} left out of the tables, which hold the rest: {self.problems[0]}")
            error.details = self.problems[1:]
            raise error


def collect(runs: Path, output: Path) -> Collected:
    """Gather every run folder below `runs`, or `runs` itself, into one `output/<table>.parquet` for each of SCHEMAS.

    Rows are in the order of run IDs, then as they were made: the same runs give the same tables, all of them written or
    none. A run folder that is broken is left out, whole, and named in `problems`; so are two that hold one run, and
    folders that cannot be looked into. Telemetry that is missing or was cut off is not a problem: what it would say is
    null, and `telemetry_complete` is false.
    Raises TableError where there is no run folder at all, StorageError where `output` cannot be written.
    """
    problems: list[str] = []
    notes: list[str] = []
    folders = list(find_runs(runs, problems, notes))
    if not folders:
        why = "".join(f"; {line}" for line in [*problems, *notes])
        raise TableError(
            f"{runs}: no run folder in it (none holds run.json); name the folder that `train -o` wrote to{why}"
        )
    records: dict[Path, RunRecord] = {}
    for folder in folders:
        with _leaving_out(folder, problems):
            records[folder] = read_record(RunPaths(folder))
    for run_id, twins in _by_id(records).items():
        if len(twins) > 1:
            names = ", ".join(str(folder) for folder in twins)
            problems.append(f"run {run_id} is in {len(twins)} folders: {names}; move all but one elsewhere")
            for folder in twins:
                del records[folder]
    parts: dict[str, list[pa.Table]] = {name: [schema.empty_table()] for name, schema in SCHEMAS.items()}
    for folder, record in sorted(records.items(), key=lambda item: item[1].run_id):
        with _leaving_out(folder, problems):
            for name, table in collect_run(RunPaths(folder), record).items():
                parts[name].append(table)
    joined = {
        name: pa.concat_tables(tables, promote_options="default").unify_dictionaries().combine_chunks()
        for name, tables in parts.items()
    }
    with ExitStack() as files:  # renamed when all are written: tables of one collection, never of two
        for name, table in joined.items():
            partial = files.enter_context(whole_file(output / f"{name}.parquet"))
            pq.write_table(table, partial, compression="zstd")
    return Collected(joined, tuple(problems), tuple(notes))


@contextmanager
def _leaving_out(folder: Path, problems: list[str]) -> Iterator[None]:
    """What goes wrong inside is a line of `problems`: the files of one run must not lose the others."""
    try:
        yield
    except DataError as error:
        problems.append(" ".join(str(error).split()))
    except OSError as error:
        problems.append(f"{error.filename or folder}: cannot be read ({error.strerror or error})")
    except (pa.ArrowException, ValueError, TypeError, LookupError) as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        problems.append(f"{folder}: holds damaged files ({words}); run the job again")


def find_runs(folder: Path, problems: list[str] | None = None, notes: list[str] | None = None) -> Iterator[Path]:
    """Every folder that holds `run.json`, in order; nothing is looked for inside one. Links are not followed.

    problems: receives a line for each folder that cannot be looked into. notes: one for each linked run that is left
    out.
    """

    def unreadable(error: OSError) -> None:
        if problems is not None and not isinstance(error, FileNotFoundError):
            problems.append(f"{error.filename}: cannot be read ({error.strerror or error}); runs in it are left out")

    for name, subfolders, files in os.walk(folder, onerror=unreadable):
        subfolders.sort()
        if RunPaths(Path(name)).record.name in files:
            subfolders.clear()
            yield Path(name)
        for link in (Path(name, each) for each in subfolders if os.path.islink(Path(name, each))):
            if notes is not None and os.path.exists(RunPaths(link).record):
                notes.append(f"{link}: a link to a run folder, which is not followed")


def collect_run(paths: RunPaths, record: RunRecord) -> dict[str, pa.Table]:
    """The tables of one run. Raises DataError, naming the file, where one is damaged or of another run."""
    epochs, cases = read_rows(paths.epochs, EPOCHS), read_rows(paths.cases, CASES)
    lesions = read_rows(paths.lesions, LESIONS)
    if paths.telemetry.exists():
        os.listdir(paths.telemetry)  # raises where it cannot be read: a glob would find nothing there
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
    """The telemetry of one attempt. exit_code, peak_rss_bytes: None where its supervisor left no word.

    complete: whether no sample and no phase is missing.
    """

    job: str
    samples: pa.Table
    events: pa.Table
    exit_code: int | None
    peak_rss_bytes: int | None
    complete: bool

    @staticmethod
    def read(paths: TelemetryPaths) -> _Attempt:
        there = set(os.listdir(paths.folder))
        samples = read_stream(paths.samples, SAMPLES_STREAM) if paths.samples.name in there else None
        events = read_stream(paths.events, EVENTS) if paths.events.name in there else None
        complete = ended(paths.samples) and ended(paths.events)
        samples = SAMPLES_STREAM.empty_table() if samples is None else samples
        events = EVENTS.empty_table() if events is None else events
        if paths.exit.name not in there:
            peak = pc.max(samples.column("rss_bytes")).as_py()
            return _Attempt(paths.job, samples, events, None, peak, complete=False)
        ending = read_json(paths.exit, what="record of an ended job", remedy="remove this telemetry folder")
        try:
            complete = complete and bool(ending.get("telemetry_complete", True))
            return _Attempt(paths.job, samples, events, ending["exit_code"], ending["peak_rss_bytes"], complete)
        except (KeyError, TypeError, AttributeError) as error:
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
        "status": _status(record, attempts, _ended(record, where.parent)),
        "model_arguments": json.dumps(record.model_arguments, sort_keys=True),
        "certificates": json.dumps([note.model_dump(mode="json") for note in record.certificates]),
        "started_utc": _time(record.started_utc, where),
        "ended_utc": None if record.ended_utc is None else _time(record.ended_utc, where),
        "train_epoch_seconds": statistics.median(known_seconds) if known_seconds else None,
        "evaluate_seconds": known_evaluations[-1] if known_evaluations else None,
        "peak_rss_bytes": max(known_peaks, default=None),
        "telemetry_complete": all(attempt.complete for attempt in attempts) if attempts else None,
        "versions": json.dumps(source["versions"], sort_keys=True) if "versions" in source else None,
    }


def _ended(record: RunRecord, folder: Path) -> str | None:
    """What the campaign found out about a cell that was killed, if it is about this attempt; None where it did not."""
    path = ended_path(folder.parent.parent)
    if record.status != "running" or not path.exists():
        return None
    cells = read_json(path, what="list of ended cells", remedy="remove it and collect again")["cells"]
    found = cells.get(folder.name, {})
    return str(found["status"]) if found.get("restart_count") == record.restart_count else None


def _status(record: RunRecord, attempts: list[_Attempt], ended: str | None) -> str:
    """The record's own word, but a training that died without writing it is not running any more.

    ended: what its campaign says of that, which has asked the scheduler; without one, the word of its supervisor.
    """
    if ended is not None:
        return ended
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
