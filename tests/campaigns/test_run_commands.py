import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from mspipeline.campaigns.attempt import read_attempt
from mspipeline.campaigns.run_commands import run_in_own_session
from mspipeline.errors import RunFolderError
from mspipeline.parallel.lock import held, hold
from tests.campaigns.process_watch import wait_for

RUN = (
    "import sys; from mspipeline.campaigns.run_commands import run_in_own_session; "
    "sys.exit(run_in_own_session({commands!r}, {folder!r}))"
)
# Short sleeps: a signal that comes just before one long sleep begins would be seen only after it.
SLEEP = "for _ in range(6000): time.sleep(0.01)"
SLOW = f"import time; print('ready', flush=True)\n{SLEEP}"
STOPS_WELL = (
    "import signal, sys, time\n"
    "signal.signal(signal.{name}, lambda *_: sys.exit(0))\n"
    "print('ready', flush=True)\n" + SLEEP
)


@pytest.fixture
def start(tmp_path):
    """Start a job of this machine in a process of its own, in the environment that submitit gives it."""
    started = []
    environment = {
        **os.environ,
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": "4711",
        "SUBMITIT_FOLDER": str(tmp_path / "logs"),
    }

    def begin(*commands):
        line = RUN.format(commands=[list(command) for command in commands], folder=str(tmp_path / "cell"))
        process = subprocess.Popen([sys.executable, "-c", line], env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the session that a job opens for itself and its commands
        process.wait()
        process.stdout.close()


def python(text):
    return [sys.executable, "-c", text]


def test_commands_run_in_order_and_the_record_tells_how_it_went(start, tmp_path):
    process = start(["echo", "one"], ["echo", "two"])
    assert process.communicate()[0] == "one\ntwo\n"
    assert process.returncode == 0
    record = read_attempt(tmp_path / "cell")
    assert (record.attempt, record.step, record.exit_code, record.job_id) == (0, 1, 0, "4711")
    assert record.pid == process.pid
    assert record.log == tmp_path / "logs" / "4711_0_log.out"
    assert record.ended_utc is not None
    start(["true"]).wait()
    assert read_attempt(tmp_path / "cell").attempt == 1


def test_the_first_command_that_fails_is_the_last_that_runs(start, tmp_path):
    process = start(python("raise SystemExit(65)"), ["echo", "two"])
    assert process.communicate()[0] == ""
    assert process.returncode == 65
    assert (read_attempt(tmp_path / "cell").step, read_attempt(tmp_path / "cell").exit_code) == (0, 65)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGUSR2", 75), ("SIGINT", 130)])
def test_a_signal_reaches_the_command_and_no_other_command_starts(start, tmp_path, name, code):
    process = start(python(STOPS_WELL.format(name=name)), ["echo", "two"])
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, name))
    assert process.communicate(timeout=20)[0] == ""
    assert process.returncode == code
    assert read_attempt(tmp_path / "cell").exit_code == code


def test_a_command_without_a_handler_gives_128_and_the_signal(start):
    process = start(python(SLOW))
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(20) == 128 + 15


def test_the_same_signal_twice_reaches_the_command_once(start):
    counts = (
        "import signal, sys, time\n"
        "seen = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: (seen.append(1), print('seen', flush=True)))\n"
        "print('ready', flush=True)\n"
        "ends = time.monotonic() + 1.0\n"
        "while time.monotonic() < ends: time.sleep(0.02)\n"
        "sys.exit(len(seen))"
    )
    process = start(python(counts))
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.stdout.readline() == "seen\n"
    process.terminate()
    assert process.wait(20) == 1


def test_a_second_attempt_beside_the_first_runs_nothing_and_writes_nothing(start, tmp_path):
    first = start(python(SLOW))
    assert first.stdout.readline() == "ready\n"
    before = (tmp_path / "cell" / "cell.json").read_bytes()
    second = start(["echo", "twice"])
    said, _ = second.communicate(timeout=20)
    assert "another attempt of this cell is running" in said
    assert "twice\n" not in said.splitlines(keepends=True)
    assert second.returncode == 0
    assert (tmp_path / "cell" / "cell.json").read_bytes() == before


def test_the_lock_lives_as_long_as_the_command_though_the_job_is_killed(start, tmp_path):
    process = start(python("import os; print(os.getpid(), flush=True)\n" + SLOW))
    command = int(process.stdout.readline())
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    assert held(tmp_path / "cell" / "lock")
    os.kill(command, signal.SIGKILL)
    wait_for(lambda: not held(tmp_path / "cell" / "lock"))


def test_a_free_lock_is_taken_and_a_held_one_is_not(tmp_path):
    path = tmp_path / "lock"
    assert not held(path)
    with hold(path) as first:
        assert first is not None
        assert held(path)
        with hold(path) as second:
            assert second is None
    assert not held(path)


def test_only_names_and_command_lines_enter_the_pickle():
    assert pickle.loads(pickle.dumps(run_in_own_session)) is run_in_own_session
    assert len(pickle.dumps(run_in_own_session)) < 100


def test_a_record_that_is_not_readable_is_said_so(tmp_path):
    (tmp_path / "cell.json").write_text('{"attempt"')
    with pytest.raises(RunFolderError, match=r"cell\.json: not a readable record of a cell's attempt"):
        read_attempt(tmp_path)


def test_that_a_command_was_asked_to_end_is_on_record_while_it_has_not(start, tmp_path):
    process = start(python(f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLOW}"))
    assert process.stdout.readline() == "ready\n"
    assert read_attempt(tmp_path / "cell").asked is None
    process.terminate()
    wait_for(lambda: read_attempt(tmp_path / "cell").asked == "SIGTERM")
    assert read_attempt(tmp_path / "cell").exit_code is None
    process.kill()
    process.wait()
    assert not read_attempt(tmp_path / "cell").died  # it was warned


def test_an_attempt_that_was_killed_has_died(start, tmp_path):
    process = start(python(f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"))
    assert process.wait(20) == 137
    assert read_attempt(tmp_path / "cell").died
    start(["true"]).wait()
    assert read_attempt(tmp_path / "cell").tries == 1
