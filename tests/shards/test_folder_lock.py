"""One writer at a time, between processes and between hosts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mspipeline.errors import StorageError, UsageError
from mspipeline.shards import lock
from mspipeline.shards.lock import NAME, hold_folder

HOLDER = """
import sys
from pathlib import Path
from mspipeline.shards.lock import hold_folder
with hold_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder until its stdin is closed."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_folder_that_another_process_holds_is_refused_and_free_after_it(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    with holder(folder) as other:
        words = rf"another prepare writes to this folder .*process {other.pid} on"
        with pytest.raises(UsageError, match=words), hold_folder(folder):
            pass
        assert (folder / NAME).exists()
    with hold_folder(folder):
        (folder / "shard").touch()
    assert [path.name for path in folder.iterdir()] == ["shard"]


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
    assert other.returncode == -9
    assert json.loads((tmp_path / NAME).read_text())["pid"] == other.pid
    with hold_folder(tmp_path):
        pass
    assert not (tmp_path / NAME).exists()


def test_a_folder_made_for_nothing_is_removed_again(tmp_path: Path) -> None:
    with hold_folder(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.1)
    monkeypatch.setattr(lock, "PATIENCE_S", 1.0)


@pytest.mark.usefixtures("quick")
def test_another_host_that_gives_signs_of_life_is_believed_and_a_silent_one_is_not(tmp_path: Path) -> None:
    # As on a file system whose locks stay on their host: the file is there, and no lock is felt.
    note = {"host": "node7", "pid": 42, "since": "2026-01-01T00:00:00+00:00", "beat": 0}
    (tmp_path / NAME).write_text(json.dumps(note))
    program = (
        "import json, sys, time\nnote = json.loads(sys.argv[2])\nfor beat in range(1, 100):\n"
        "    open(sys.argv[1], 'w').write(json.dumps({**note, 'beat': beat}))\n    time.sleep(0.1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / NAME), json.dumps(note)]) as other:
        with pytest.raises(UsageError, match="another prepare writes to this folder"), hold_folder(tmp_path):
            pass
        other.kill()
    with hold_folder(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = r"below: cannot be written \(Not a directory\)"
    with pytest.raises(StorageError, match=words), hold_folder(tmp_path / "file/below"):
        pass
    assert os.listdir(tmp_path) == ["file"]
