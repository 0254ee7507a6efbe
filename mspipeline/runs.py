"""The run folder: every file name in one place, and `run.json`, the record of what was run where.

RUN/
  run.json                            what, with which data, where, and how it ended
  graph.json                          the network, where the suite does not have it itself
  jobs/<job>.json                     what was asked for last: the TrainJob, EvaluateJob or PredictJob
  checkpoints/{best,last}.h5          of a cascade: checkpoints/stage<N>/{best,last,candidates}.h5
  epochs.csv  epochs.arrow            metric rows, for people and for the collector
  cases.csv   cases.arrow             rows per case, label and checkpoint that were scored
  lesions.csv lesions.arrow           rows per lesion of those cases
  telemetry/<job>-<attempt>/          samples.arrows, events.arrows, exit.json, job.json
  <job>.lock                          while a train or an evaluate works here
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
from pydantic import Field

from mspipeline.config import Strict, TrainJob, parse
from mspipeline.errors import ConfigError, DataError, RunFolderError, StorageError
from mspipeline.files import read_json, sha256_data, whole_file, write_json
from mspipeline.labels import LabelSet, read_stored
from mspipeline.tables.schema import added_scores, completed, missing_columns

Status = Literal["running", "complete", "interrupted", "failed"]


@dataclass(frozen=True)
class TelemetryPaths:
    """The files of one attempt of one job."""

    folder: Path

    @property
    def samples(self) -> Path:
        return self.folder / "samples.arrows"

    @property
    def events(self) -> Path:
        return self.folder / "events.arrows"

    @property
    def exit(self) -> Path:
        return self.folder / "exit.json"

    @property
    def config(self) -> Path:
        """The job of this attempt. No other attempt writes it: the child reads what it was started for."""
        return self.folder / "job.json"

    @property
    def job(self) -> str:
        return self.folder.name.rpartition("-")[0]

    @property
    def attempt(self) -> int:
        return int(self.folder.name.rpartition("-")[2])


@dataclass(frozen=True)
class RunPaths:
    """File names inside a run folder."""

    root: Path

    @property
    def record(self) -> Path:
        return self.root / "run.json"

    @property
    def graph(self) -> Path:
        """The network of a run that was imported, or whose model comes from a user's file or another package."""
        return self.root / "graph.json"

    def job_config(self, job: str) -> Path:
        """Where the configuration of `job` is kept."""
        return self.root / "jobs" / f"{job}.json"

    def lock(self, job: str) -> Path:
        """The file that is there while a `job` works on the run."""
        return self.root / f"{job}.lock"

    @property
    def best(self) -> Path:
        return self.root / "checkpoints" / "best.h5"

    @property
    def last(self) -> Path:
        return self.root / "checkpoints" / "last.h5"

    def stage(self, number: int, checkpoint: Literal["best", "last"]) -> Path:
        """The checkpoint of a cascade's stage, counted from 1."""
        return self.root / "checkpoints" / f"stage{number}" / f"{checkpoint}.h5"

    def scores(self, number: int) -> Path:
        """What a cascade's stage says of the candidates that the next one is trained on."""
        return self.root / "checkpoints" / f"stage{number}" / "candidates.h5"

    @property
    def epochs(self) -> Path:
        return self.root / "epochs.arrow"

    @property
    def cases(self) -> Path:
        return self.root / "cases.arrow"

    @property
    def lesions(self) -> Path:
        return self.root / "lesions.arrow"

    @property
    def telemetry(self) -> Path:
        return self.root / "telemetry"

    def attempts(self, job: str | None = None) -> list[TelemetryPaths]:
        """The telemetry of every attempt so far, of one job or of all, in the order they ran."""
        folders = [folder for folder in self.telemetry.glob(f"{job or '*'}-*") if folder.is_dir()]
        attempts = [TelemetryPaths(folder) for folder in folders if folder.name.rpartition("-")[2].isdecimal()]
        return sorted(attempts, key=lambda paths: (paths.job, paths.attempt))

    def new_attempt(self, job: str) -> TelemetryPaths:
        """The folder for the telemetry of another attempt of `job` ("train", "evaluate", "predict"), made for it alone.

        Raises StorageError where it cannot be made.
        """
        number = max((paths.attempt for paths in self.attempts(job)), default=-1) + 1
        while True:
            folder = self.telemetry / f"{job}-{number}"
            try:
                self.telemetry.mkdir(parents=True, exist_ok=True)
                folder.mkdir()
            except FileExistsError:
                number += 1  # of another that began at the same moment
                if not self.telemetry.is_dir():
                    raise StorageError(f"{self.telemetry}: a file, expected a folder; remove it") from None
            except OSError as error:
                raise StorageError(
                    f"{folder}: cannot be made ({error.strerror}); free some space or choose another run folder"
                ) from error
            else:
                return TelemetryPaths(folder)


class CascadeSettings(Strict):
    """How the stages of a cascade follow each other, and which of the voxels above the threshold are lesions.

    Defaults are those of nicMSlesions (Valverde et al. 2017, 2019).
    stages: networks, each seeing what the one before it let pass. pass_above: probability above which it does.
    larger_than_vox: a lesion has more voxels than this (6-connected). min_total_ml: below this the case has no lesions.
    """

    stages: int = Field(2, ge=1)
    pass_above: float = Field(0.8, ge=0, lt=1)
    larger_than_vox: int = Field(10, ge=0)
    min_total_ml: float = Field(0.5, ge=0)


class CertificateNote(Strict):
    """A certificate that covers a run. same_graph: False where it is of the network at another image size.

    worst: of each quantity, in words.
    """

    sha256: str
    reference: str
    other: str
    same_graph: bool
    image_shape: tuple[int, ...]
    worst: str


class RunRecord(Strict):
    """`run.json`. Hashes are SHA-256 in hexadecimal; times are ISO 8601 in UTC.

    cascade: of a run of several stages on patches; None of one network on slices. prediction: what its recipe keeps of
    the training's settings to predict with, where that is another. problem: why a training could not
    begin. certificates: those that count for this run; uncertified: why none does, empty where none was looked for.
    processes: that trained it together; threads are of each.
    collapsed: whether the training ended predicting nothing, or everything, for some epochs in a row: `collapsed_to`,
    from `collapsed_epoch` on. None where that is not known, as in records of earlier versions.
    optimizer, learning_rate, batch_size: of the training, the rate before warm-up and schedule; None where not known.
    brain_sources: how many of the cases of its shards have their brain from "mask" files, how many from the "nonzero"
    voxels; empty where that is not known.
    labels: what its predictions are made of, see `labels.LabelSet`; None of lesions.
    """

    schema_version: Literal[1] = 1
    run_id: str
    status: Status
    campaign: str = ""
    cell: str = ""
    model: str
    model_arguments: dict[str, Any]
    backend: str
    backend_version: str
    device: str
    memory: str = "mid_mem"
    seed: int
    threads: int
    processes: int = 1
    started_utc: str
    ended_utc: str | None = None
    restart_count: int = 0
    epochs: int = 0
    best_epoch: int | None = None
    monitor: str
    threshold: float
    cascade: CascadeSettings | None = None
    labels: dict[str, Any] | None = None
    prediction: dict[str, Any] = Field(default_factory=dict)
    trainable_parameters: int
    non_trainable_parameters: int
    macs: int
    graph_hash: str
    dataset_hash: str
    split_hash: str
    recipe_hash: str
    recipe: dict[str, Any]
    config_hash: str
    provenance: dict[str, Any]
    problem: str = ""
    certificates: tuple[CertificateNote, ...] = ()
    uncertified: str = ""
    brain_sources: dict[str, int] = Field(default_factory=dict)
    collapsed: bool | None = None
    collapsed_to: Literal["nothing", "everything"] | None = None
    collapsed_epoch: int | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    batch_size: int | None = None

    @property
    def label_set(self) -> LabelSet:
        """What its predictions are made of."""
        return read_stored(self.labels, where=f"run {self.run_id}: labels")


def write_record(paths: RunPaths, record: RunRecord) -> None:
    """Write `run.json`, whole or not at all."""
    write_json(paths.record, record.model_dump(mode="json"))


def read_record(paths: RunPaths) -> RunRecord:
    """`run.json` of a run folder. Raises RunFolderError where there is none or it does not fit."""
    try:
        document = read_json(paths.record, what="run record", remedy="name a folder that `mspipeline train` made")
        record = parse(document, RunRecord, where=str(paths.record))
        read_stored(record.labels, where=f"{paths.record}: labels")
        return record
    except (DataError, ConfigError) as error:
        raise RunFolderError(str(error)) from error


def ended_path(campaign_folder: Path) -> Path:
    """The list of a campaign's cells that are over though their `run.json` says `running`: they were killed.

    {"cells": {cell: {"status": "failed" or "interrupted", "restart_count": of the attempt it is about}}}
    """
    return campaign_folder / "gaps" / "ended.json"


class PreparedData(Protocol):
    """What tells one set of shards from another; a manifest is one."""

    @property
    def dataset_hash(self) -> str: ...
    @property
    def split_hash(self) -> str: ...
    @property
    def recipe_hash(self) -> str: ...


def config_hash(job: TrainJob, data: PreparedData) -> str:
    """SHA-256 of all that decides what a training gives and takes; paths, threads, a campaign's names do not enter."""
    settings = job.model_dump(mode="json", include={"model", "backend", "device", "memory", "seed"})
    settings["training"] = job.training.identity()
    if job.processes > 1:  # as good as none before it was a setting
        settings["processes"] = job.processes
    if job.model.file_sha256 is None:  # neither was this
        del settings["model"]["file_sha256"]
    return sha256_data({**settings, "data": [data.dataset_hash, data.split_hash, data.recipe_hash]})


def run_id(job: TrainJob, data: PreparedData) -> str:
    """A run's name: what it trains, on what, with which seed, and the first 8 digits of its configuration's hash."""
    return f"{job.model.plain_name}-{job.backend}-s{job.seed}-{config_hash(job, data)[:8]}"


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write metric rows as an Arrow file and, beside it, as CSV for people; each whole or not at all."""
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    with whole_file(path) as partial, pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(table)
    with whole_file(path.with_suffix(".csv")) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        lines = csv.DictWriter(stream, schema.names)
        lines.writeheader()
        lines.writerows(rows)


def read_rows(path: Path, schema: pa.Schema) -> pa.Table:
    """The rows that `write_rows` wrote; an empty table where there are none yet.

    Raises RunFolderError where the file cannot be read, is damaged or holds other columns.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return schema.empty_table()
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RunFolderError(f"{path}: not a readable Arrow file ({error}); run the job again") from error
    known = {*schema.names, *(field.name for field in added_scores(table.schema))}
    if missing_columns(table.schema, schema) or not set(table.schema.names) <= known:
        raise RunFolderError(f"{path}: holds columns {table.schema.names}, expected {schema.names}")
    try:
        return completed(table, schema)
    except (pa.ArrowException, ValueError) as error:
        raise RunFolderError(f"{path}: holds values of another kind ({error}); run the job again") from error


def utc_now() -> str:
    """The time now, as every file of a run or a campaign has it: ISO 8601, in UTC."""
    return datetime.now(UTC).isoformat()
