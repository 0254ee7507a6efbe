from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pyarrow as pa
import pytest

from mspipeline.errors import TableError
from mspipeline.telemetry.events import PHASES, EventWriter, Phase
from mspipeline.telemetry.schema import EVENTS, Identity
from mspipeline.telemetry.shard import read_stream

IDENTITY = Identity("r", restart_count=1, rank=0, host="h")

KILLED_IN_TRAINING = """
import os, pathlib, signal, sys
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity
events = EventWriter(pathlib.Path(sys.argv[1]), Identity("r"))
events.begin("setup"); events.end("setup"); events.begin("train", 1)
os.kill(os.getpid(), signal.SIGKILL)
"""

DISK_FULL_AFTER_SETUP = """
import pathlib, resource, signal, sys
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
events = EventWriter(pathlib.Path(sys.argv[1]), Identity("r"))
events.begin("setup")
resource.setrlimit(resource.RLIMIT_FSIZE, (pathlib.Path(sys.argv[1]).stat().st_size + 10,) * 2)
for epoch in range(3):
    events.begin("train", epoch)
events.close()
print("went on")
"""


def marks(path: Path) -> list[tuple[str, str, int | None]]:
    table = read_stream(path, EVENTS)
    return list(zip(*(table.column(name).to_pylist() for name in ("kind", "phase", "epoch")), strict=True))


def test_phases_nest_and_are_written_in_order(tmp_path: Path) -> None:
    path = tmp_path / "events.arrows"
    with EventWriter(path, IDENTITY) as events:
        events.begin("setup")
        events.end("setup")
        with events.phase("train", epoch=1), events.phase("checkpoint"):
            pass
    assert marks(path) == [
        ("begin", "setup", None),
        ("end", "setup", None),
        ("begin", "train", 1),
        ("begin", "checkpoint", None),
        ("end", "checkpoint", None),
        ("end", "train", 1),
    ]


def test_rows_carry_the_identity_and_both_clocks(tmp_path: Path) -> None:
    before = time.time_ns(), time.monotonic_ns()
    with EventWriter(tmp_path / "events.arrows", IDENTITY) as events:
        events.begin("train", epoch=1)
    after = time.time_ns(), time.monotonic_ns()
    table = read_stream(tmp_path / "events.arrows", EVENTS)
    (row,) = table.drop_columns(["time_utc"]).to_pylist()
    assert before[0] <= table.column("time_utc").cast(pa.int64())[0].as_py() <= after[0]
    assert (row["run_id"], row["host"], row["rank"], row["restart_count"]) == ("r", "h", 0, 1)
    assert before[1] <= row["monotonic_ns"] <= after[1]


def test_a_phase_that_raises_is_ended(tmp_path: Path) -> None:
    events = EventWriter(tmp_path / "events.arrows", IDENTITY)
    with pytest.raises(ZeroDivisionError), events.phase("evaluate"):
        raise ZeroDivisionError
    events.close()
    assert marks(tmp_path / "events.arrows") == [("begin", "evaluate", None), ("end", "evaluate", None)]


def test_events_of_a_killed_job_are_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "events.arrows"
    ended = subprocess.run([sys.executable, "-c", KILLED_IN_TRAINING, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert marks(path) == [("begin", "setup", None), ("end", "setup", None), ("begin", "train", 1)]


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with EventWriter(None, IDENTITY) as events, events.phase("train", epoch=1):
        events.begin("checkpoint")
        events.end("checkpoint")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", [None, "events.arrows"])
def test_a_misspelt_phase_is_refused_with_the_valid_ones(tmp_path: Path, path: str | None) -> None:
    events = EventWriter(tmp_path / path if path else None, IDENTITY)
    with pytest.raises(ValueError, match=r"unknown phase 'trian', expected one of setup, train, .*prepare"):
        events.begin(cast(Phase, "trian"))
    events.close()


def test_every_phase_of_the_schema_is_accepted(tmp_path: Path) -> None:
    with EventWriter(tmp_path / "events.arrows", IDENTITY) as events:
        for phase in PHASES:
            events.begin(cast(Phase, phase))
    expected = ["setup", "train", "validation", "mining", "checkpoint", "evaluate", "predict", "prepare"]
    assert [phase for _, phase, _ in marks(tmp_path / "events.arrows")] == expected


def test_a_used_folder_is_refused(tmp_path: Path) -> None:
    EventWriter(tmp_path / "events.arrows", IDENTITY).close()
    with pytest.raises(TableError, match="a stream has one writer"):
        EventWriter(tmp_path / "events.arrows", IDENTITY)


def test_a_full_disk_is_told_once_and_the_job_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "events.arrows"
    command = [sys.executable, "-c", DISK_FULL_AFTER_SETUP, str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout == "went on\n"
    assert ended.stderr.count("phase events are not written") == 1
    assert marks(path) == [("begin", "setup", None)]
