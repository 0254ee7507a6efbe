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

from mspipeline.errors import FolderInUse, StorageError
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
        with pytest.raises(FolderInUse, match=words), hold_folder(folder):
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


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = r"below: cannot be written \(Not a directory\)"
    with pytest.raises(StorageError, match=words), hold_folder(tmp_path / "file/below"):
        pass
    assert os.listdir(tmp_path) == ["file"]
