"""One holder at a time: between processes, between hosts, and on file systems without locks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mspipeline.errors import StorageError
from mspipeline.parallel import lock
from mspipeline.parallel.lock import held, hold, holder_of
from tests.without_locks import ENOLCK, ENOTSUPP, without_locks

HOLDER = """
import sys
from pathlib import Path
from mspipeline.parallel import lock
lock.BEAT_S, lock.PATIENCE_S, lock.SETTLE_S = 0.1, 1.5, 0.3
with lock.hold(Path(sys.argv[1]), on_lost=lambda: print("lost", flush=True)) as held:
    print("refused" if held is None else "held", flush=True)
    sys.stdin.read()
"""
Holder = Callable[..., Any]


@contextmanager
def holder(path: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that holds the file until its stdin is closed, and its first word: `held` or `refused`."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.1)
    monkeypatch.setattr(lock, "PATIENCE_S", 1.5)
    monkeypatch.setattr(lock, "SETTLE_S", 0.3)


@pytest.fixture(params=[None, ENOLCK, ENOTSUPP], ids=["locks", "ENOLCK", "524"])
def system(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of holders: on a file system with locks, and on two kinds without."""
    return {} if request.param is None else without_locks(tmp_path, request.param)


def test_one_process_holds_and_is_named_and_the_next_comes_after_it(tmp_path: Path, system: dict[str, str]) -> None:
    path = tmp_path / "lock"
    with holder(path, **system) as (first, word):
        assert word == "held"
        assert holder_of(path).startswith(f"process {first.pid} on {os.uname().nodename}, since 20")
        with holder(path, **system) as (_, second):
            assert second == "refused"
        assert first.stdin is not None
        first.stdin.close()
        assert first.wait(timeout=30) == 0
        assert not path.exists()
    with holder(path, **system) as (_, word):
        assert word == "held"


def test_a_killed_holder_is_followed_at_once(tmp_path: Path, system: dict[str, str]) -> None:
    path = tmp_path / "lock"
    with holder(path, **system) as (first, _):
        first.send_signal(signal.SIGKILL)
        first.wait(timeout=30)
    assert json.loads(path.read_text())["pid"] == first.pid
    with holder(path, **system) as (second, word):
        assert word == "held"
        assert json.loads(path.read_text())["pid"] == second.pid


def foreign(path: Path, **changes: Any) -> dict[str, Any]:
    """The note of a holder on another host."""
    note = {"host": "node7", "pid": 42, "since": "2026-01-01T00:00:00+00:00", "token": "a", "kernel": "k", "beat": 0}
    path.write_text(json.dumps(note | changes))
    return note | changes


@contextmanager
def beating(path: Path, note: dict[str, Any]) -> Iterator[None]:
    """A process that writes the note with another beat ten times a second, for 60 s at most."""
    program = (
        "import json, os, sys, time\nnote = json.loads(sys.argv[2])\nfor beat in range(1, 600):\n"
        "    open(sys.argv[1] + 'x', 'w').write(json.dumps({**note, 'beat': beat}))\n"
        "    os.replace(sys.argv[1] + 'x', sys.argv[1])\n    time.sleep(0.1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path), json.dumps(note)]) as other:
        try:
            yield
        finally:
            other.kill()


@pytest.mark.usefixtures("quick")
def test_a_holder_on_another_host_is_believed_while_it_gives_signs_of_life(
    tmp_path: Path, system: dict[str, str]
) -> None:
    # As on a file system whose locks stay on their host: the file is there, and no lock is felt.
    path = tmp_path / "lock"
    note = foreign(path)
    with beating(path, note):
        deadline = time.monotonic() + 60
        while json.loads(path.read_text())["beat"] < 1:
            assert time.monotonic() < deadline
        with holder(path, **system) as (_, word):
            assert word == "refused"
    with holder(path, **system) as (second, word):
        assert word == "held"
        assert json.loads(path.read_text())["pid"] == second.pid


def test_another_container_with_the_same_number_of_a_process_is_not_taken_for_the_holder(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lock"
    # Without locks, on this very kernel, a process of our number that is in another namespace: only signs of life tell.
    foreign(path, host=os.uname().nodename, kernel=lock._kernel(), namespace="pid:[1]", pid=os.getpid())
    with holder(path, **without_locks(tmp_path, ENOLCK)) as (_, word):
        assert word == "held"


def test_of_two_that_follow_a_dead_one_at_once_without_locks_one_holds(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    system = without_locks(tmp_path, ENOLCK)
    foreign(path)
    with holder(path, **system) as (_, one), holder(path, **system) as (_, two):
        assert sorted([one, two]) == ["held", "refused"]


def test_a_holder_that_was_stopped_and_lost_its_place_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as (first, word):
        assert word == "held"
        first.send_signal(signal.SIGSTOP)
        foreign(path, token="another")
        first.send_signal(signal.SIGCONT)
        assert first.stdout is not None
        assert first.stdout.readline() == "lost\n"
        assert first.stdin is not None
        first.stdin.close()
        first.wait(timeout=30)
    assert json.loads(path.read_text())["host"] == "node7"  # what is the other's by now was left alone


def test_a_lock_of_another_user_who_is_dead_is_replaced(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be two users")
    folder = Path(tempfile.mkdtemp())  # pytest's own are closed to others
    folder.chmod(0o777)
    path = folder / "lock"
    foreign(path, kernel=lock._kernel())
    path.chmod(0o644)
    script = HOLDER.replace("lock.BEAT_S", "import os; lock._kernel(); os.setuid(65534)\nlock.BEAT_S", 1)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert path.stat().st_uid == 65534
        process.communicate()
    shutil.rmtree(folder)


def test_whether_a_file_is_held_can_be_asked(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not held(path)
    with holder(path):
        assert held(path)
    assert path.exists()  # it was killed
    assert not held(path)
    assert holder_of(tmp_path / "none") == ""


def test_a_waiter_gets_the_file_when_its_holder_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as (first, _):
        assert first.stdin is not None
        first.stdin.close()
        with hold(path, wait_s=30) as taken:
            assert taken is not None


def test_a_file_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot be written \(Not a directory\)"), hold(tmp_path / "file/lock"):
        pass
