"""The stream must give back what was flushed, whatever became of its tail."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest

from mspipeline.errors import StorageError, TableError
from mspipeline.telemetry.schema import EVENTS, SAMPLES_STREAM
from mspipeline.telemetry.shard import StreamWriter, read_stream

FLUSHING_FOR_EVER = """
import sys, pathlib
from mspipeline.telemetry.schema import EVENTS
from mspipeline.telemetry.shard import StreamWriter
stream = StreamWriter(pathlib.Path(sys.argv[1]), EVENTS)
for number in range(10**9):
    stream.write([{"run_id": "r", "phase": "train" if number % 3 else "validation", "epoch": number}])
    if number == 50:
        print("fifty", flush=True)
"""


def event(epoch: int | None, phase: str | None = "train") -> dict[str, object]:
    return {"run_id": "r", "host": "h", "rank": 0, "kind": "begin", "phase": phase, "epoch": epoch}


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    with StreamWriter(tmp_path / "s.arrows", EVENTS) as stream:
        stream.write([{**event(1), "time_utc": 1_700_000_000_000_000_001, "monotonic_ns": 7}])
        stream.write([event(2, "validation"), event(None, None)])
    table = read_stream(tmp_path / "s.arrows", EVENTS)
    assert table.schema.equals(EVENTS, check_metadata=True)
    assert table.column("phase").to_pylist() == ["train", "validation", None]
    assert table.column("epoch").to_pylist() == [1, 2, None]
    assert table.column("monotonic_ns").to_pylist() == [7, None, None]
    assert table.column("time_utc").cast(pa.int64()).to_pylist() == [1_700_000_000_000_000_001, None, None]
    assert table.column("restart_count").null_count == 3


def test_labels_that_change_in_every_batch_come_back(tmp_path: Path) -> None:
    phases = [None, "train", "validation", "train", "checkpoint", None, "setup", "train"]
    with StreamWriter(tmp_path / "s.arrows", EVENTS) as stream:
        for phase in phases:
            stream.write([event(1, phase)])
    assert read_stream(tmp_path / "s.arrows", EVENTS).column("phase").to_pylist() == phases


def test_cut_at_any_byte_the_rows_read_are_those_written_first(tmp_path: Path) -> None:
    path, cut = tmp_path / "whole.arrows", tmp_path / "cut.arrows"
    ends = []  # bytes on disk after each batch
    with StreamWriter(path, EVENTS) as stream:
        for epoch in range(4):
            stream.write([event(epoch, "train" if epoch % 2 else "validation"), event(epoch, "checkpoint")])
            ends.append(path.stat().st_size)
    data = path.read_bytes()
    whole = read_stream(path, EVENTS).to_pylist()
    assert len(whole) == 8
    for length in range(len(data) + 1):
        cut.write_bytes(data[:length])
        rows = read_stream(cut, EVENTS).to_pylist()
        assert rows == whole[: 2 * sum(end <= length for end in ends)], f"cut at byte {length}"


def test_a_tail_of_zeros_after_a_power_cut_costs_nothing_before_it(tmp_path: Path) -> None:
    path = tmp_path / "s.arrows"
    stream = StreamWriter(path, EVENTS)
    stream.write([event(1)])
    with path.open("ab") as tail:
        tail.write(bytes(512))
    assert read_stream(path, EVENTS).column("epoch").to_pylist() == [1]
    stream.close()


def test_rows_are_readable_while_the_writer_is_open(tmp_path: Path) -> None:
    with StreamWriter(tmp_path / "s.arrows", EVENTS) as stream:
        assert len(read_stream(tmp_path / "s.arrows", EVENTS)) == 0
        stream.write([event(1)])
        assert read_stream(tmp_path / "s.arrows", EVENTS).column("epoch").to_pylist() == [1]


def test_a_killed_writer_leaves_every_flushed_row(tmp_path: Path) -> None:
    path = tmp_path / "s.arrows"
    command = [sys.executable, "-c", FLUSHING_FOR_EVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "fifty\n"
        time.sleep(0.02)
        writer.send_signal(signal.SIGKILL)
    epochs = read_stream(path, EVENTS).column("epoch").to_pylist()
    assert len(epochs) > 50
    assert epochs == list(range(len(epochs)))


def test_ten_thousand_batches_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "s.arrows"
    batch = pa.RecordBatch.from_pylist([{"run_id": "r", "scope": "process_tree"}], schema=SAMPLES_STREAM)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SAMPLES_STREAM) as stream:
        for _ in range(10_000):
            stream.write_batch(batch)
    assert len(read_stream(path, SAMPLES_STREAM)) == 10_000


def test_a_second_writer_is_refused_and_the_first_keeps_its_rows(tmp_path: Path) -> None:
    with StreamWriter(tmp_path / "s.arrows", EVENTS) as stream:
        stream.write([event(1)])
        with pytest.raises(TableError, match="a stream has one writer"):
            StreamWriter(tmp_path / "s.arrows", EVENTS)
    assert len(read_stream(tmp_path / "s.arrows", EVENTS)) == 1


def test_an_unknown_column_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with StreamWriter(tmp_path / "s.arrows", EVENTS) as stream, pytest.raises(KeyError, match="fase"):
        stream.write([event(1), {"fase": "train"}])
    assert len(read_stream(tmp_path / "s.arrows", EVENTS)) == 0


def test_a_full_disk_is_a_storage_error_and_the_stream_goes_on_when_there_is_space(tmp_path: Path) -> None:
    path = tmp_path / "s.arrows"
    stream = StreamWriter(path, EVENTS)
    stream.write([event(1)])
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, limits[1]))  # in the midst of a batch
        with pytest.raises(StorageError, match=r"s\.arrows: cannot be written \(File too large\)"):
            stream.write([event(2)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert read_stream(path, EVENTS).column("epoch").to_pylist() == [1]
    stream.write([event(3)])
    stream.close()
    assert read_stream(path, EVENTS).column("epoch").to_pylist() == [1, 2, 3]


def test_a_missing_stream_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"absent\.arrows: no such telemetry stream"):
        read_stream(tmp_path / "absent.arrows", EVENTS)


def test_a_stream_of_another_schema_is_refused(tmp_path: Path) -> None:
    StreamWriter(tmp_path / "s.arrows", EVENTS).close()
    with pytest.raises(TableError, match="holds columns"):
        read_stream(tmp_path / "s.arrows", SAMPLES_STREAM)
    retyped = EVENTS.set(EVENTS.get_field_index("epoch"), pa.field("epoch", pa.string()))
    with pytest.raises(TableError, match="epoch int32"):
        read_stream(tmp_path / "s.arrows", retyped)


def test_a_file_that_is_no_stream_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.arrows").write_text("time,phase\n1,train\n")
    with pytest.raises(TableError, match="not an Arrow stream"):
        read_stream(tmp_path / "s.arrows", EVENTS)


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "s.arrows").touch()
    assert read_stream(tmp_path / "s.arrows", EVENTS).equals(EVENTS.empty_table())


def test_values_that_do_not_fit_are_refused_and_the_stream_goes_on(tmp_path: Path) -> None:
    with StreamWriter(tmp_path / "s.arrows", EVENTS) as stream:
        for epoch in (2**40, 2**70, "three", 1j):
            with pytest.raises(TableError, match="does not fit its column"):
                stream.write([event(1), {"run_id": "r", "epoch": epoch}])
        stream.write([event(2)])
    assert read_stream(tmp_path / "s.arrows", EVENTS).column("epoch").to_pylist() == [2]


def test_a_stream_damaged_on_disk_gives_what_was_before_or_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.arrows"
    with StreamWriter(path, EVENTS) as stream:
        for epoch in range(3):
            stream.write([event(epoch, "train" if epoch % 2 else "validation")])
    whole, data = read_stream(path, EVENTS).num_rows, path.read_bytes()
    for place in range(4, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        with suppress(TableError):  # and nothing else, nor a crash
            assert read_stream(path, EVENTS).num_rows <= whole
