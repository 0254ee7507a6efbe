"""Real children, real signals, a real death of the supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.compute as pc
import pytest

from mspipeline.errors import ConfigError, StorageError, TableError
from mspipeline.jobs.process.supervise import rank, restart_count, supervise, visible_gpus
from mspipeline.runs import RunPaths, TelemetryPaths
from mspipeline.telemetry.schema import SAMPLES_STREAM
from mspipeline.telemetry.shard import read_stream

SUPERVISOR = """
import pathlib, signal, sys
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # the tests run in a shell's background
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # or under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
from mspipeline.jobs.process.supervise import supervise
from mspipeline.runs import TelemetryPaths
telemetry = TelemetryPaths(pathlib.Path(sys.argv[1]))
sys.exit(supervise(sys.argv[2:], telemetry, run_id="r", restart_count=3, period_s=0.1, visible_gpus=None))
"""
# Notes every signal it gets; TERM ends it with code 75.
LISTENER = """
import os, signal, sys, time
got = []
for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGCONT"):
    signal.signal(getattr(signal, name), lambda number, frame: got.append(signal.Signals(number).name))
print(os.getpid(), flush=True)
while "SIGTERM" not in got:
    time.sleep(0.005)
print(*got, flush=True)
sys.exit(75)
"""
SLEEPER = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER


@pytest.fixture
def telemetry(tmp_path: Path) -> TelemetryPaths:
    return RunPaths(tmp_path / "run").new_attempt("train")


@pytest.fixture
def start(telemetry: TelemetryPaths) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a supervisor with `python -c SCRIPT` as its child; both are killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(script: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SUPERVISOR, str(telemetry.folder), sys.executable, "-c", script]
        started.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def run(script: str, telemetry: TelemetryPaths, **changes: Any) -> int:
    settings: dict[str, Any] = {"run_id": "r", "restart_count": 0, "period_s": 0.1, "visible_gpus": None}
    return supervise(python(script), telemetry, **{**settings, **changes})


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ending(telemetry: TelemetryPaths) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(telemetry.exit.read_text())
    return document


def until(fact: Callable[[], bool], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not fact():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("code", [0, 1, 65, 75, 130])
def test_the_childs_exit_code_is_returned_and_recorded(telemetry: TelemetryPaths, code: int) -> None:
    assert run(f"import sys; sys.exit({code})", telemetry) == code
    assert (ending(telemetry)["exit_code"], ending(telemetry)["signal"]) == (code, None)


def test_a_child_ended_by_a_signal_gives_128_and_its_number(telemetry: TelemetryPaths) -> None:
    assert run("import os; os.kill(os.getpid(), 9)", telemetry) == 137
    assert (ending(telemetry)["exit_code"], ending(telemetry)["signal"]) == (137, "SIGKILL")


def test_the_ending_says_what_ran_when_and_how(telemetry: TelemetryPaths) -> None:
    before_ns = time.monotonic_ns()
    run("import time; time.sleep(0.3)", telemetry)
    document = ending(telemetry)
    assert list(document) == [
        *("schema_version", "job", "attempt", "command", "started_utc", "ended_utc"),
        *("started_monotonic_ns", "ended_monotonic_ns", "exit_code", "signal", "peak_rss_bytes", "samples"),
        *("telemetry_complete", "sampler_cpu_seconds"),
    ]
    assert (document["schema_version"], document["job"], document["attempt"]) == (1, "train", 0)
    assert document["command"] == python("import time; time.sleep(0.3)")
    assert before_ns < document["started_monotonic_ns"] < document["ended_monotonic_ns"] < time.monotonic_ns()
    assert document["ended_monotonic_ns"] - document["started_monotonic_ns"] > 0.3e9
    assert document["started_utc"] < document["ended_utc"]
    assert document["started_utc"].endswith("+00:00")
    samples = read_stream(telemetry.samples, SAMPLES_STREAM)
    assert document["samples"] == len(samples) >= 3
    assert document["sampler_cpu_seconds"] > 0
    assert set(os.listdir(telemetry.folder)) == {"samples.arrows", "exit.json"}


def test_samples_carry_the_run_and_its_restart(telemetry: TelemetryPaths) -> None:
    run("pass", telemetry, run_id="unet-s0", restart_count=2, rank=1)
    samples = read_stream(telemetry.samples, SAMPLES_STREAM)
    assert set(samples.column("run_id").to_pylist()) == {"unet-s0"}
    assert set(samples.column("restart_count").to_pylist()) == {2}
    assert set(samples.column("rank").to_pylist()) == {1}


def test_cpu_time_of_the_child_is_whole_in_the_last_sample(telemetry: TelemetryPaths, tmp_path: Path) -> None:
    burn = "import os, sys, time\nwhile time.process_time() < 0.7: pass\n"
    assert run(burn + f"open({str(tmp_path / 'own')!r}, 'w').write(str(sum(os.times()[:4])))", telemetry) == 0
    own_s = float((tmp_path / "own").read_text())
    last = read_stream(telemetry.samples, SAMPLES_STREAM).column("cpu_seconds_total").to_pylist()[-1]
    assert last == pytest.approx(own_s, rel=0.2)


def test_a_peak_between_two_samples_is_seen(telemetry: TelemetryPaths) -> None:
    """The kernel's peak counts above the supervisor's own, which begins with that of what started it: so a shell."""
    supervisor = SUPERVISOR.replace("period_s=0.1", "period_s=30")
    command = [sys.executable, "-c", supervisor, str(telemetry.folder), *python("held = bytearray(600_000_000)")]
    subprocess.run(["sh", "-c", '"$@"; exit $?', "sh", *command], check=True)
    assert 600e6 < ending(telemetry)["peak_rss_bytes"] < 700e6


def test_the_supervisors_own_memory_is_not_the_childs_peak(telemetry: TelemetryPaths) -> None:
    ballast = bytearray(300_000_000)
    assert run("import time; time.sleep(0.3)", telemetry) == 0
    assert len(ballast) == 300_000_000
    assert 1e6 < ending(telemetry)["peak_rss_bytes"] < 60e6


def test_stdin_stdout_and_stderr_are_the_childs(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("import sys; print(input()[::-1]); print('told', file=sys.stderr)")
    out, err = process.communicate("stdin\n", timeout=30)
    assert (out, err) == ("nidts\n", "told\n")


@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGCONT"])
def test_a_signal_reaches_the_child_exactly_once(
    start: Callable[..., subprocess.Popen[str]], telemetry: TelemetryPaths, name: str
) -> None:
    process = start(LISTENER)
    line(process)
    process.send_signal(getattr(signal, name))
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert line(process) == f"{name} SIGTERM"
    assert process.wait(30) == 75
    assert ending(telemetry)["exit_code"] == 75


def test_ctrl_c_in_a_terminal_reaches_the_child_exactly_once(tmp_path: Path) -> None:
    """A pseudo-terminal sends INT to its whole foreground group, as a keyboard's does."""
    paths = TelemetryPaths(tmp_path / "train-0")
    command = [sys.executable, "-c", SUPERVISOR, str(paths.folder), *python(LISTENER)]
    pid, terminal = os.forkpty()
    if pid == 0:
        os.execv(command[0], command)
    output = b""
    try:
        while b"\n" not in output:
            output += os.read(terminal, 1024)
        child = int(output.split()[0])
        assert os.getpgid(child) == child  # two signals at once would look like one: so none comes from the terminal
        os.write(terminal, b"\x03")
        time.sleep(0.3)
        os.kill(pid, signal.SIGTERM)
        while b"SIGTERM" not in output:
            output += os.read(terminal, 1024)
        assert output.count(b"SIGINT") == 1
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 75


def test_the_child_reads_from_the_terminal_it_inherits(tmp_path: Path) -> None:
    paths = TelemetryPaths(tmp_path / "train-0")
    script = "import sys; print('tty' if sys.stdin.isatty() else 'no', flush=True); print('got', input(), flush=True)"
    command = [sys.executable, "-c", SUPERVISOR, str(paths.folder), *python(script)]
    pid, terminal = os.forkpty()
    if pid == 0:
        os.execv(command[0], command)
    output = b""
    while b"tty" not in output:
        output += os.read(terminal, 1024)
    os.write(terminal, b"words\n")
    while b"got words" not in output:
        output += os.read(terminal, 1024)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_signal_ignored_from_the_start_stays_ignored(tmp_path: Path) -> None:
    """As HUP under nohup."""
    script = "import signal; print(signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN)"
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path / "train-0"), *python(script)]
    shell = "trap '' USR1; exec \"$@\""
    ended = subprocess.run(["sh", "-c", shell, "sh", *command], capture_output=True, text=True, check=True)
    assert ended.stdout == "True\n"


def test_the_child_starts_with_pythons_signal_settings_undone(
    telemetry: TelemetryPaths, capfd: pytest.CaptureFixture[str]
) -> None:
    """`yes | head` must end: SIGPIPE ignored would go through to every program the job starts."""
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN  # by Python, here
    command = ["grep", "SigIgn", "/proc/self/status"]
    assert supervise(command, telemetry, run_id="r", restart_count=0, visible_gpus=None) == 0
    ignored = int(capfd.readouterr().out.split()[1], 16)
    assert not ignored >> (signal.SIGPIPE - 1) & 1


def test_handlers_are_put_back(telemetry: TelemetryPaths) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGCHLD)
    before = [signal.getsignal(number) for number in numbers]
    run("pass", telemetry)
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_killed_supervisor_leaves_its_samples_and_no_child(
    start: Callable[..., subprocess.Popen[str]], telemetry: TelemetryPaths
) -> None:
    process = start(STUBBORN)
    child = int(line(process))
    until(lambda: len(read_stream(telemetry.samples, SAMPLES_STREAM)) >= 5)
    process.kill()
    process.wait(10)
    until(lambda: gone(child), timeout_s=5)
    samples = read_stream(telemetry.samples, SAMPLES_STREAM)
    assert len(samples) >= 5
    assert pc.min(samples.column("processes")).as_py() == 1
    assert not telemetry.exit.exists()


def test_a_child_killed_from_outside_is_survived_and_recorded(
    start: Callable[..., subprocess.Popen[str]], telemetry: TelemetryPaths
) -> None:
    process = start(SLEEPER)
    os.kill(int(line(process)), signal.SIGKILL)
    assert process.wait(10) == 137
    assert ending(telemetry)["signal"] == "SIGKILL"


@pytest.mark.parametrize(
    ("grandchild", "session", "shortest_s"),
    [(SLEEPER, False, 0), (SLEEPER, True, 0), (STUBBORN, False, 5)],
    ids=["one that obeys", "one in its own session", "one that ignores TERM"],
)
def test_what_outlives_the_child_is_ended(
    telemetry: TelemetryPaths, tmp_path: Path, grandchild: str, session: bool, shortest_s: float
) -> None:
    script = f"""
import subprocess, sys, time
left = subprocess.Popen([sys.executable, "-c", {grandchild!r}], stdout=subprocess.PIPE, start_new_session={session})
left.stdout.readline()
open({str(tmp_path / "pid")!r}, "w").write(str(left.pid))
time.sleep(0.3)
left.returncode = 0
"""
    started = time.monotonic()
    assert run(script, telemetry) == 0
    assert time.monotonic() - started >= shortest_s
    assert gone(int((tmp_path / "pid").read_text()))
    document = ending(telemetry)
    assert document["ended_monotonic_ns"] - document["started_monotonic_ns"] < 4e9  # the grace time is not the job's


def test_grandchildren_are_counted_in_the_samples(telemetry: TelemetryPaths) -> None:
    sleep = "import time; time.sleep(0.6)"
    run(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleep!r}])", telemetry)
    assert pc.max(read_stream(telemetry.samples, SAMPLES_STREAM).column("processes")).as_py() == 2


def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path / "train-0"), "/no/such/program"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 127
    assert ended.stderr == "/no/such/program: cannot be started: No such file or directory\n"


def test_a_used_telemetry_folder_is_refused_before_the_child_starts(telemetry: TelemetryPaths, tmp_path: Path) -> None:
    run("pass", telemetry)
    with pytest.raises(TableError, match="a stream has one writer"):
        run(f"open({str(tmp_path / 'ran')!r}, 'w')", telemetry)
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_cannot_be_made_is_refused_before_the_child_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        run(f"open({str(tmp_path / 'ran')!r}, 'w')", TelemetryPaths(tmp_path / "file" / "train-0"))
    assert not (tmp_path / "ran").exists()


def test_the_environment_says_restarts_rank_and_gpus() -> None:
    slurm = {"SLURM_RESTART_COUNT": "2", "SLURM_PROCID": "7", "CUDA_VISIBLE_DEVICES": "0,1"}
    assert (restart_count(slurm), rank(slurm), visible_gpus(slurm)) == (2, 7, "0,1")
    assert (restart_count({}), rank({}), visible_gpus({})) == (0, 0, None)
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == ""


def test_a_count_that_is_no_number_is_named() -> None:
    with pytest.raises(ConfigError, match="SLURM_PROCID is 'one', expected a whole number"):
        rank({"SLURM_PROCID": "one"})
