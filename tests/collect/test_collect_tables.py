"""Run folders as the jobs leave them, whole and broken, to tables."""

from __future__ import annotations

import json
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mspipeline.collect.tables import collect, find_runs
from mspipeline.errors import StorageError, TableError
from mspipeline.files import write_json
from mspipeline.runs import RunPaths, RunRecord, TelemetryPaths, write_record, write_rows
from mspipeline.tables.schema import CASES, EPOCHS, LESIONS, RUNS, SAMPLES
from mspipeline.telemetry.schema import EVENTS, SAMPLES_STREAM
from mspipeline.telemetry.shard import StreamWriter

SECOND = 1_000_000_000


def record(run_id: str, **changes: Any) -> RunRecord:
    settings: dict[str, Any] = {
        **{"run_id": run_id, "status": "complete", "campaign": "demo", "cell": "c0", "model": "unet2d"},
        **{"model_arguments": {"base_width": 8, "activation": "relu"}, "backend": "tensorflow"},
        **{"backend_version": "2.16", "device": "cpu", "seed": 1, "threads": 2, "epochs": 3, "best_epoch": 2},
        **{"started_utc": "2024-05-06T07:08:09+00:00", "ended_utc": "2024-05-06T08:00:00.5+00:00"},
        **{"monitor": "validation_loss", "threshold": 0.5, "trainable_parameters": 10, "non_trainable_parameters": 2},
        **{"macs": 12345678901, "recipe": {}, "provenance": {"commit": "abc", "cpus_allocated": 2, "host": "n1"}},
        **{f"{name}_hash": name for name in ("graph", "dataset", "split", "recipe", "config")},
    }
    settings["provenance"]["versions"] = {"numpy": "2", "keras": "3"}
    return RunRecord(**{**settings, **changes})


def make_run(folder: Path, run_id: str, **changes: Any) -> RunPaths:
    """A run of three epochs and one case, without telemetry."""
    paths = RunPaths(folder)
    write_record(paths, record(run_id, **changes))
    epochs = [
        {"run_id": run_id, "epoch": number, "subset": subset, "seconds": seconds}
        for number, (train_s, validation_s) in enumerate([(9.0, 100.0), (4.0, 100.0), (5.0, 100.0)], start=1)
        for subset, seconds in (("train", train_s), ("validation", validation_s))
    ]
    write_rows(paths.epochs, epochs, EPOCHS)
    write_rows(paths.cases, [{"run_id": run_id, "case": "sub-01", "subset": "test", "dice": 0.5}], CASES)
    lesion = {"run_id": run_id, "case": "sub-01", "mask": "truth", "lesion": 1, "size_vox": 7}
    write_rows(paths.lesions, [lesion], LESIONS)
    return paths


def add_attempt(
    paths: RunPaths,
    job: str,
    run_id: str,
    *,
    rss: tuple[int, ...] = (),
    marks: tuple[tuple[int, str, str, int | None], ...] = (),
    exit_code: int | None = 0,
    peak: int | None = None,
) -> TelemetryPaths:
    """Telemetry with a sample of the tree each second from 1 s on, and events (second, kind, phase, epoch)."""
    telemetry = paths.new_attempt(job)
    with StreamWriter(telemetry.samples, SAMPLES_STREAM) as stream:
        for second, rss_bytes in enumerate(rss, start=1):
            row = {"run_id": run_id, "scope": "process_tree", "monotonic_ns": second * SECOND, "rss_bytes": rss_bytes}
            stream.write([row])
    with StreamWriter(telemetry.events, EVENTS) as stream:
        for second, kind, phase, epoch in marks:
            row = {"run_id": run_id, "kind": kind, "phase": phase, "epoch": epoch, "monotonic_ns": second * SECOND}
            stream.write([row])
    if exit_code is not None:
        write_json(telemetry.exit, {"exit_code": exit_code, "peak_rss_bytes": peak})
    return telemetry


def row_of(table: pa.Table, run_id: str) -> dict[str, Any]:
    (row,) = [row for row in table.to_pylist() if row["run_id"] == run_id]
    return dict(row)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "tables"


def test_a_run_becomes_one_row_with_what_its_files_say(runs: Path, output: Path) -> None:
    paths = make_run(runs / "a", "a")
    add_attempt(paths, "train", "a", peak=700)
    add_attempt(paths, "evaluate", "a", peak=900, marks=((1, "begin", "evaluate", None), (4, "end", "evaluate", None)))
    collected = collect(runs, output)
    assert collected.problems == ()
    row = row_of(collected.tables["runs"], "a")
    assert row["train_epoch_seconds"] == 5.0  # median of 9, 4 and 5; the validation rows stay out
    assert row["evaluate_seconds"] == 3.0
    assert row["peak_rss_bytes"] == 900
    assert json.loads(row["model_arguments"]) == {"base_width": 8, "activation": "relu"}
    assert json.loads(row["versions"]) == {"numpy": "2", "keras": "3"}
    assert row["started_utc"] == datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    assert row["ended_utc"] == datetime(2024, 5, 6, 8, 0, 0, 500_000, tzinfo=UTC)
    assert (row["commit"], row["cpus_allocated"], row["host"], row["threads"]) == ("abc", 2, "n1", 2)
    assert (row["macs"], row["graph_hash"], row["campaign"]) == (12345678901, "graph", "demo")
    assert (row["gpu_name"], row["image_digest"]) == (None, None)


def test_the_files_hold_the_tables_with_their_schemas(runs: Path, output: Path) -> None:
    add_attempt(make_run(runs / "a", "a"), "train", "a", rss=(1, 2))
    tables = collect(runs, output).tables
    assert {path.name for path in output.iterdir()} == {f"{name}.parquet" for name in tables}
    schemas = {"runs": RUNS, "epochs": EPOCHS, "cases": CASES, "lesions": LESIONS, "samples": SAMPLES}
    for name, schema in schemas.items():
        stored = pq.read_table(output / f"{name}.parquet")
        assert stored.schema.equals(schema, check_metadata=True), name
        assert stored.equals(tables[name])
        assert len(stored) > 0
        assert pq.ParquetFile(output / f"{name}.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def test_what_a_run_was_trained_with_are_columns_null_where_its_record_is_from_before(runs: Path, output: Path) -> None:
    make_run(runs / "a", "a", optimizer="sgd", learning_rate=0.01, batch_size=8)
    old = make_run(runs / "old", "old").record
    document = json.loads(old.read_text())
    for name in ("optimizer", "learning_rate", "batch_size"):
        del document[name]
    old.write_text(json.dumps(document))
    table = collect(runs, output).tables["runs"]
    rows = table.select(["run_id", "optimizer", "learning_rate", "batch_size"]).to_pylist()
    assert sorted(tuple(row.values()) for row in rows) == [("a", "sgd", 0.01, 8), ("old", None, None, None)]


def test_a_collapse_is_a_column_and_a_record_from_before_there_was_one_has_nulls(runs: Path, output: Path) -> None:
    make_run(runs / "a", "a", collapsed=True, collapsed_to="nothing", collapsed_epoch=14)
    old = make_run(runs / "old", "old").record
    document = json.loads(old.read_text())
    for name in ("collapsed", "collapsed_to", "collapsed_epoch"):
        del document[name]
    old.write_text(json.dumps(document))
    collected = collect(runs, output)
    assert collected.problems == ()
    rows = collected.tables["runs"].select(["collapsed", "collapsed_to", "collapsed_epoch"]).to_pylist()
    assert [list(row.values()) for row in rows] == [[True, "nothing", 14], [None, None, None]]


def test_samples_carry_job_phase_and_epoch_of_their_own_attempt(runs: Path, output: Path) -> None:
    paths = make_run(runs / "a", "a")
    train = ((1, "begin", "setup", None), (2, "end", "setup", None), (2, "begin", "train", 1), (4, "end", "train", 1))
    add_attempt(paths, "train", "a", rss=(10, 20, 30, 40), marks=train)
    add_attempt(paths, "evaluate", "a", rss=(50,), marks=((0, "begin", "evaluate", None),))
    samples = collect(runs, output).tables["samples"]
    columns = [samples.column(name).to_pylist() for name in ("job", "phase", "epoch", "rss_bytes")]
    assert list(zip(*columns, strict=True)) == [
        ("evaluate", "evaluate", None, 50),
        ("train", "setup", None, 10),
        ("train", "train", 1, 20),
        ("train", "train", 1, 30),
        ("train", None, None, 40),
    ]


def test_a_run_without_telemetry_or_rows_has_nulls(runs: Path, output: Path) -> None:
    write_record(RunPaths(runs / "a"), record("a", provenance={}, status="running", ended_utc=None))
    collected = collect(runs, output)
    row = row_of(collected.tables["runs"], "a")
    unknown = ("train_epoch_seconds", "evaluate_seconds", "peak_rss_bytes", "ended_utc", "versions", "commit", "host")
    assert [row[name] for name in unknown] == [None] * 7
    assert row["status"] == "running"
    assert [len(collected.tables[name]) for name in ("epochs", "cases", "samples")] == [0, 0, 0]
    assert collected.problems == ()


def test_a_killed_supervisors_attempt_still_gives_its_samples_and_their_peak(runs: Path, output: Path) -> None:
    paths = make_run(runs / "a", "a")
    telemetry = add_attempt(paths, "train", "a", rss=(10, 90, 20), exit_code=None)
    with telemetry.samples.open("r+b") as stream:
        stream.truncate(telemetry.samples.stat().st_size - 300)  # the last batch is torn
    tables = collect(runs, output).tables
    assert tables["samples"].column("rss_bytes").to_pylist() == [10, 90]
    assert row_of(tables["runs"], "a")["peak_rss_bytes"] == 90


@pytest.mark.parametrize(
    ("status", "codes", "expected"),
    [
        ("running", (), "running"),
        ("running", (None,), "running"),
        ("running", (0,), "running"),
        ("running", (137,), "failed"),
        ("running", (75,), "interrupted"),
        ("running", (130,), "interrupted"),
        ("running", (137, None), "running"),  # started again
        ("complete", (137,), "complete"),
        ("failed", (75,), "failed"),
    ],
)
def test_a_training_that_died_is_not_running(
    runs: Path, output: Path, status: str, codes: tuple[int | None, ...], expected: str
) -> None:
    paths = make_run(runs / "a", "a", status=status)
    for code in codes:
        add_attempt(paths, "train", "a", exit_code=code)
    assert row_of(collect(runs, output).tables["runs"], "a")["status"] == expected


def test_the_failure_of_an_evaluation_is_not_the_runs(runs: Path, output: Path) -> None:
    paths = make_run(runs / "a", "a", status="running")
    add_attempt(paths, "evaluate", "a", exit_code=70)
    assert row_of(collect(runs, output).tables["runs"], "a")["status"] == "running"


def test_the_time_of_the_last_evaluation_that_ended_counts(runs: Path, output: Path) -> None:
    paths = make_run(runs / "a", "a")
    for end in (8, 4):
        marks = ((1, "begin", "evaluate", None), (end, "end", "evaluate", None))
        add_attempt(paths, "evaluate", "a", marks=marks)
    add_attempt(paths, "evaluate", "a", marks=((1, "begin", "evaluate", None),), exit_code=137)
    assert row_of(collect(runs, output).tables["runs"], "a")["evaluate_seconds"] == 3.0


def test_runs_are_found_at_any_depth_and_in_the_folder_itself(runs: Path, output: Path) -> None:
    make_run(runs / "sweep" / "runs" / "b", "b")
    make_run(runs / "a", "a")
    make_run(runs / "a" / "copy", "inside")  # nothing is looked for inside a run folder
    assert list(find_runs(runs)) == [runs / "a", runs / "sweep" / "runs" / "b"]
    assert collect(runs, output).tables["runs"].column("run_id").to_pylist() == ["a", "b"]
    assert collect(runs / "a", output).tables["runs"].column("run_id").to_pylist() == ["a"]


def test_rows_are_in_the_order_of_run_ids_whatever_the_folders_are_called(tmp_path: Path, output: Path) -> None:
    for place, (first, second) in {"one": ("x", "y"), "two": ("y", "x")}.items():
        for folder, run_id in ((first, "b"), (second, "a")):
            add_attempt(make_run(tmp_path / place / folder, run_id), "train", run_id, rss=(1, 2))
        collect(tmp_path / place, output / place)
    for name in ("runs", "epochs", "cases", "samples"):
        one, two = ((output / place / f"{name}.parquet").read_bytes() for place in ("one", "two"))
        assert one == two, name
        run_ids = pq.read_table(output / "one" / f"{name}.parquet").column("run_id").to_pylist()
        assert run_ids == sorted(run_ids)
        assert set(run_ids) == {"a", "b"}


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("run.json", "{", r"broken/run\.json: not a readable run record"),
        ("run.json", "{}", r"broken/run\.json: run_id: field required"),
        ("epochs.arrow", "no arrow", r"broken/epochs\.arrow: not a readable Arrow file"),
        ("cases.arrow", "", r"broken/cases\.arrow: not a readable Arrow file"),
        ("telemetry/train-0/samples.arrows", "no stream", r"train-0/samples\.arrows: not an Arrow stream"),
        ("telemetry/train-0/exit.json", "{", r"train-0/exit\.json: not a readable record of an ended job"),
        ("telemetry/train-0/exit.json", "{}", r"train-0/exit\.json: lacks 'exit_code'"),
        ("telemetry/train-0/exit.json", "[]", r"train-0/exit\.json: lacks"),
    ],
)
def test_a_broken_run_is_named_and_does_not_lose_the_others(
    runs: Path, output: Path, file: str, content: str, words: str
) -> None:
    make_run(runs / "good", "good")
    add_attempt(make_run(runs / "broken", "broken"), "train", "broken", rss=(1,))
    (runs / "broken" / file).write_text(content)
    collected = collect(runs, output)
    (problem,) = collected.problems
    assert re.search(words, problem), problem
    assert "\n" not in problem
    for name in ("runs", "epochs", "cases"):
        assert set(collected.tables[name].column("run_id").to_pylist()) == {"good"}
    assert len(collected.tables["samples"]) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"started_utc": "yesterday"}, "'yesterday' is no time"),
        ({"provenance": {"memory_bytes": "much"}}, "does not fit the table of runs"),
        ({"macs": 2**70}, "does not fit the table of runs"),
    ],
)
def test_a_record_that_does_not_fit_the_table_is_named(
    runs: Path, output: Path, changes: dict[str, Any], words: str
) -> None:
    make_run(runs / "a", "a", **changes)
    make_run(runs / "b", "b")
    collected = collect(runs, output)
    (problem,) = collected.problems
    assert "a/run.json" in problem
    assert words in problem
    assert collected.tables["runs"].column("run_id").to_pylist() == ["b"]


def test_telemetry_of_another_run_is_refused(runs: Path, output: Path) -> None:
    add_attempt(make_run(runs / "a", "a"), "train", "other", rss=(1,))
    (problem,) = collect(runs, output).problems
    assert problem == f"{runs / 'a' / 'telemetry'}: holds rows of ['other'], expected run a"


def test_a_run_in_two_folders_is_named_with_both_and_left_out(runs: Path, output: Path) -> None:
    make_run(runs / "a", "a")
    make_run(runs / "b", "b")
    shutil.copytree(runs / "a", runs / "copy-of-a")
    collected = collect(runs, output)
    (problem,) = collected.problems
    assert problem == f"run a is in 2 folders: {runs / 'a'}, {runs / 'copy-of-a'}; move all but one elsewhere"
    assert collected.tables["runs"].column("run_id").to_pylist() == ["b"]


def test_a_stray_folder_among_the_telemetry_is_not_read(runs: Path, output: Path) -> None:
    paths = make_run(runs / "a", "a")
    (paths.telemetry / "train-old").mkdir(parents=True)
    (paths.telemetry / "notes").mkdir()
    assert collect(runs, output).problems == ()


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_runs_is_an_error_that_says_what_to_do(runs: Path, output: Path, exists: bool) -> None:
    if exists:
        runs.mkdir()
    with pytest.raises(TableError, match=r"no run folder in it .*; name the folder"):
        collect(runs, output)
    assert not output.exists()


def test_an_output_that_cannot_be_written_is_a_storage_error(runs: Path, tmp_path: Path) -> None:
    make_run(runs / "a", "a")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        collect(runs, tmp_path / "file" / "tables")


def test_collecting_again_replaces_the_tables(runs: Path, output: Path) -> None:
    make_run(runs / "a", "a")
    collect(runs, output)
    make_run(runs / "b", "b")
    collect(runs, output)
    assert pq.read_table(output / "runs.parquet").column("run_id").to_pylist() == ["a", "b"]


def test_what_no_reader_foresaw_in_one_run_does_not_lose_the_others(runs: Path, output: Path) -> None:
    make_run(runs / "good", "good")
    make_run(runs / "kinds", "kinds")
    retyped = EPOCHS.set(EPOCHS.get_field_index("seconds"), pa.field("seconds", pa.string()))
    write_rows(runs / "kinds" / "epochs.arrow", [{"run_id": "kinds", "seconds": "much"}], retyped)
    add_attempt(make_run(runs / "peaks", "peaks"), "train", "peaks")
    write_json(runs / "peaks" / "telemetry" / "train-0" / "exit.json", {"exit_code": 0, "peak_rss_bytes": ["much"]})
    make_run(runs / "folder", "folder")
    (runs / "folder" / "cases.arrow").unlink()
    (runs / "folder" / "cases.arrow").mkdir()
    damaged = make_run(runs / "damaged", "damaged").lesions
    data = damaged.read_bytes()
    third = len(data) // 3
    damaged.write_bytes(data[:third] + b"\xff" * third + data[2 * third :])
    collected = collect(runs, output)
    assert collected.tables["runs"].column("run_id").to_pylist() == ["good"]
    assert len(collected.problems) == 4
    for name, problem in zip(("damaged", "folder", "kinds", "peaks"), sorted(collected.problems), strict=True):
        assert str(runs / name) in problem
        assert "\n" not in problem


def test_folders_that_cannot_be_read_are_named(runs: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(runs / "a", "a")
    make_run(runs / "locked" / "b", "b")
    add_attempt(make_run(runs / "c", "c"), "train", "c")
    locked = {str(runs / "locked"), str(runs / "c" / "telemetry")}
    scandir, listdir = os.scandir, os.listdir

    def refusing(answer: Any) -> Any:  # root may read everything: the system is made to refuse as it does to others
        def ask(path: Any = ".") -> Any:
            if str(path) in locked:
                raise PermissionError(13, "Permission denied", str(path))
            return answer(path)

        return ask

    monkeypatch.setattr(os, "scandir", refusing(scandir))
    monkeypatch.setattr(os, "listdir", refusing(listdir))
    collected = collect(runs, output)
    assert collected.tables["runs"].column("run_id").to_pylist() == ["a"]
    assert collected.problems == (
        f"{runs / 'locked'}: cannot be read (Permission denied); runs in it are left out",
        f"{runs / 'c' / 'telemetry'}: cannot be read (Permission denied)",
    )


def test_a_folder_of_unreadable_folders_says_why_it_holds_no_run(
    runs: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.mkdir()

    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(TableError, match=r"no run folder in it .*; .*runs: cannot be read \(Permission denied\)"):
        collect(runs, output)


def test_a_link_to_a_run_is_said_to_be_left_out(runs: Path, output: Path, tmp_path: Path) -> None:
    make_run(runs / "a", "a")
    make_run(tmp_path / "elsewhere" / "b", "b")
    (runs / "b").symlink_to(tmp_path / "elsewhere" / "b")
    (runs / "dangling").symlink_to(tmp_path / "nowhere")
    collected = collect(runs, output)
    assert collected.tables["runs"].column("run_id").to_pylist() == ["a"]
    assert (collected.problems, collected.notes) == (
        (),
        (f"{runs / 'b'}: a link to a run folder, which is not followed",),
    )


def test_what_is_left_out_is_one_error_with_the_others_below_it(runs: Path, output: Path) -> None:
    for name in ("a", "b", "c"):
        make_run(runs / name, name)
    for name in ("a", "b"):
        (runs / name / "run.json").write_text("{")
    with pytest.raises(TableError, match=r"^2 left out of the tables, which hold the rest: .*a/run\.json") as caught:
        collect(runs, output).check()
    (other,) = caught.value.details
    assert "b/run.json" in other


def test_telemetry_is_complete_where_every_stream_of_every_attempt_was_closed(runs: Path, output: Path) -> None:
    add_attempt(make_run(runs / "whole", "whole"), "train", "whole", rss=(1,))
    write_record(RunPaths(runs / "none"), record("none"))
    torn = make_run(runs / "torn", "torn")
    add_attempt(torn, "train", "torn", rss=(1,))
    telemetry = add_attempt(torn, "evaluate", "torn", rss=(1,))
    with telemetry.events.open("r+b") as stream:
        stream.truncate(telemetry.events.stat().st_size - 4)
    killed = make_run(runs / "killed", "killed")
    add_attempt(killed, "train", "killed", exit_code=None)
    lost = add_attempt(make_run(runs / "lost", "lost"), "train", "lost")
    write_json(lost.exit, {"exit_code": 0, "peak_rss_bytes": 1, "telemetry_complete": False})
    table = collect(runs, output).tables["runs"]
    assert dict(zip(*(table.column(name).to_pylist() for name in ("run_id", "telemetry_complete")), strict=True)) == {
        "whole": True,
        "none": None,
        "torn": False,
        "killed": False,
        "lost": False,
    }


def test_a_full_disk_leaves_the_tables_as_they_were(runs: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(runs / "a", "a")
    collect(runs, output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    add_attempt(make_run(runs / "b", "b"), "train", "b", rss=(1, 2))
    written: list[Any] = []
    write = pq.write_table

    def full(table: pa.Table, where: Any, **options: Any) -> None:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(where)
        write(table, where, **options)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(StorageError, match="No space left"):
        collect(runs, output)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
