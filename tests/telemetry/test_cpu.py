from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial

import psutil
import psutil._pslinux as linux
import pytest

from mspipeline.telemetry.cpu import ProcessTree

Start = Callable[..., "subprocess.Popen[str]"]

IDLE = "print('ready', flush=True); input()"
# Burns CPU for the seconds named in each line it gets, then prints its own CPU time.
BURNER = """
import os, sys, time
print('ready', flush=True)
for line in sys.stdin:
    end = time.process_time() + float(line)
    while time.process_time() < end: pass
    print(sum(os.times()[:4]), flush=True)
"""
# Starts a burning child on each line; on an empty one it waits for it.
PARENT = """
import subprocess, sys
print('ready', flush=True)
burn = "import time\\nwhile time.process_time() < 0.6: pass\\ninput()"
for line in sys.stdin:
    if line.strip():
        child = subprocess.Popen([sys.executable, '-c', burn], stdin=subprocess.PIPE)
        print(child.pid, flush=True)
    else:
        child.communicate(b'\\n')
        print('gone', flush=True)
"""
# As PARENT, but its children are reaped by the kernel and their time goes to nobody.
NEGLIGENT = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n" + PARENT
HOLDER = "held = bytearray(200_000_000); print('ready', flush=True); input()"
THREADED = """
import threading
for _ in range(3): threading.Thread(target=threading.Event().wait, daemon=True).start()
print('ready', flush=True); input()
"""
FORKER = """
import os, signal, subprocess, sys
child = [sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(60)']
children = [subprocess.Popen(child, stdout=subprocess.PIPE) for _ in range(2)]
for each in children: each.stdout.readline()  # it runs, and has the memory of a Python
print('ready', flush=True); input()
for each in children: each.kill(); each.wait()
print('none', flush=True); input()
"""
# A child in a session of its own, then its parent dies.
DAEMON = """
import os, subprocess, sys
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)
print('ready', flush=True); input()
"""
# A grandchild whose parent dies at once, in the session of the first.
ORPHANER = """
import subprocess, sys
sleep = [sys.executable, '-c', 'import time; time.sleep(60)']
middle = f"import subprocess; subprocess.Popen({sleep})"
subprocess.run([sys.executable, '-c', middle])
print('ready', flush=True); input()
"""
WRITER = """
import os, sys
print('ready', flush=True); input()
with open(sys.argv[1], 'wb', 0) as file:
    file.write(os.urandom(8_000_000)); os.fsync(file.fileno())
print('written', flush=True); input()
"""


def tell(process: subprocess.Popen[str], line: str = "") -> str:
    """Give the process a line and wait for the one it answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def burnt(process: psutil.Process) -> bool:
    """Whether a process has used enough of a core to be seen."""
    return float(sum(process.cpu_times()[:2])) >= 0.57


def until(fact: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not fact():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.01)


def test_the_first_reading_has_no_utilization(start: Start) -> None:
    reading = ProcessTree(start(IDLE).pid, 2).read()
    assert reading.cpu_utilization_percent is None
    assert reading.cpu_utilization_ratio is None
    assert reading.processes == 1
    assert reading.cpu_seconds_total is not None


def test_a_burning_process_reads_its_share_of_a_core_and_half_that_of_two(start: Start) -> None:
    burner = start(BURNER)
    tree = ProcessTree(burner.pid, 2)
    own_s, started = float(tell(burner, "0.1")), time.monotonic()
    tree.read()
    own_s, elapsed = float(tell(burner, "1")) - own_s, time.monotonic() - started
    reading = tree.read()
    assert reading.cpu_utilization_percent is not None
    assert reading.cpu_utilization_ratio is not None
    share_percent = 100 * own_s / elapsed  # 100 on a quiet machine, less where the core is shared
    assert reading.cpu_utilization_percent == pytest.approx(share_percent, rel=0.2)
    assert reading.cpu_utilization_percent < 150
    assert reading.cpu_utilization_ratio == pytest.approx(reading.cpu_utilization_percent / 200)


def test_an_idle_process_reads_about_0_percent(start: Start) -> None:
    tree = ProcessTree(start(IDLE).pid, 1)
    tree.read()
    time.sleep(0.3)
    percent = tree.read().cpu_utilization_percent
    assert percent is not None
    assert 0 <= percent < 10


def test_cpu_seconds_agree_with_the_childs_own_count(start: Start) -> None:
    burner = start(BURNER)
    tree = ProcessTree(burner.pid, 1)
    own_s = float(tell(burner, "0.8"))
    assert tree.read().cpu_seconds_total == pytest.approx(own_s, rel=0.2)


@pytest.mark.parametrize("parent", [PARENT, NEGLIGENT], ids=["a parent that waits", "a parent that does not"])
def test_cpu_seconds_of_children_that_died_stay_in_the_total_and_count_once(start: Start, parent: str) -> None:
    process = start(parent)
    tree = ProcessTree(process.pid, 1)
    before = tree.read().cpu_seconds_total
    assert before is not None
    for number in (1, 2):
        child = psutil.Process(int(tell(process, "burn")))
        until(partial(burnt, child))
        with_child = tree.read()
        assert with_child.processes == 2
        tell(process)  # the child ends
        total = tree.read().cpu_seconds_total
        assert total is not None
        assert total - before == pytest.approx(0.6 * number, rel=0.25)
        assert total >= (with_child.cpu_seconds_total or 0)
    assert tree.read().processes == 1


def test_a_child_that_lived_between_two_readings_counts_where_its_parent_waited(start: Start) -> None:
    process = start(PARENT)
    tree = ProcessTree(process.pid, 1)
    before = tree.read().cpu_seconds_total
    child = psutil.Process(int(tell(process, "burn")))
    until(partial(burnt, child))
    tell(process)
    after = tree.read().cpu_seconds_total
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(0.6, rel=0.25)


def test_memory_of_200_mb_is_seen(start: Start) -> None:
    reading = ProcessTree(start(HOLDER).pid, 1).read()
    assert reading.rss_bytes is not None
    assert reading.pss_bytes is not None
    assert 200e6 < reading.rss_bytes < 260e6
    assert 200e6 < reading.pss_bytes <= reading.rss_bytes * 1.02  # the two are read one after the other


def test_pss_is_read_at_its_own_slower_rate(start: Start) -> None:
    process = start(IDLE)
    slow, fast = ProcessTree(process.pid, 1, pss_period_s=60), ProcessTree(process.pid, 1, pss_period_s=0)
    assert slow.read().pss_bytes is not None
    assert slow.read().pss_bytes is None
    assert fast.read().pss_bytes is not None
    until(lambda: fast.read().pss_bytes is not None)  # where the machine is slow it waits longer, to stay cheap


def test_threads_are_counted(start: Start) -> None:
    assert ProcessTree(start(THREADED).pid, 1).read().threads == 4


def test_children_come_and_go_and_their_memory_with_them(start: Start) -> None:
    forker = start(FORKER)
    tree = ProcessTree(forker.pid, 1)
    with_children = tree.read()
    assert with_children.processes == 3
    assert len(tree.descendants()) == 2
    assert tell(forker) == "none"
    alone = tree.read()
    assert alone.processes == 1
    assert tree.descendants() == []
    assert with_children.rss_bytes is not None
    assert alone.rss_bytes is not None
    assert with_children.rss_bytes > 1.5 * alone.rss_bytes


def test_a_child_in_its_own_session_stays_in_the_tree_when_its_parent_dies(start: Start) -> None:
    parent = start(DAEMON)
    tree = ProcessTree(parent.pid, 1)
    assert tree.read().processes == 2
    parent.kill()
    parent.wait()
    assert tree.read().processes == 1
    (orphan,) = tree.descendants()
    orphan.kill()


def test_an_orphan_of_the_same_session_is_found(start: Start) -> None:
    process = start(ORPHANER)
    tree = ProcessTree(process.pid, 1)
    assert tree.read().processes == 2
    (orphan,) = tree.descendants()
    assert os.getsid(orphan.pid) == process.pid
    orphan.kill()


def test_a_zombie_keeps_its_cpu_time_and_has_no_memory(start: Start) -> None:
    burner = start(BURNER)
    tree = ProcessTree(burner.pid, 1)
    own_s = float(tell(burner, "0.5"))
    alive = tree.read()
    os.kill(burner.pid, signal.SIGKILL)
    until(lambda: psutil.Process(burner.pid).status() == psutil.STATUS_ZOMBIE)
    dead = tree.read()
    assert (dead.processes, dead.threads) == (0, 0)
    assert dead.rss_bytes is None
    assert dead.pss_bytes is None
    assert dead.cpu_seconds_total == pytest.approx(own_s, rel=0.2)
    assert dead.read_bytes_total == alive.read_bytes_total
    burner.wait()
    gone = tree.read()
    assert gone.cpu_seconds_total == dead.cpu_seconds_total
    assert gone.processes == 0


def test_a_tree_that_never_was_has_no_totals(start: Start) -> None:
    process = start(IDLE)
    process.kill()
    process.wait()
    reading = ProcessTree(process.pid, 1).read()
    assert (reading.processes, reading.cpu_seconds_total, reading.rss_bytes) == (0, None, None)
    assert (reading.read_bytes_total, reading.write_bytes_total) == (None, None)


def test_bytes_written_to_disk_are_counted(start: Start, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("disk")
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True).stdout
    if kind.strip() == "tmpfs":
        pytest.skip(f"{folder} is in memory: writing there is no disk traffic")
    writer = start(WRITER, str(folder / "data"))
    tree = ProcessTree(writer.pid, 1)
    before = tree.read().write_bytes_total
    assert tell(writer) == "written"
    after = tree.read().write_bytes_total
    assert before is not None
    assert after is not None
    assert 8_000_000 <= after - before < 9_000_000


def test_processes_outside_the_tree_are_left_out(start: Start) -> None:
    start(HOLDER)
    reading = ProcessTree(start(IDLE).pid, 1).read()
    assert reading.processes == 1
    assert (reading.rss_bytes or 0) < 100e6


def denied(self: linux.Process, *_: object, **__: object) -> None:
    raise psutil.AccessDenied(self.pid)


def failing(self: linux.Process, *_: object, **__: object) -> None:
    raise OSError(5, "Input/output error")


def garbled(self: linux.Process, *_: object, **__: object) -> None:
    raise ValueError("not enough values to unpack")


@pytest.mark.parametrize("refusal", [denied, failing, garbled])
@pytest.mark.parametrize(
    ("question", "unknown"),
    [
        ("cpu_times", {"cpu_utilization_percent", "cpu_utilization_ratio", "cpu_seconds_total"}),
        ("memory_info", {"rss_bytes"}),
        ("num_threads", {"threads"}),
        ("status", set()),
        ("io_counters", {"read_bytes_total", "write_bytes_total"}),
    ],
)
def test_what_the_system_refuses_of_one_process_is_unknown_of_the_tree_and_comes_back(
    start: Start, monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., None], question: str, unknown: set[str]
) -> None:
    tree = ProcessTree(start(FORKER).pid, 1)
    tree.read()
    time.sleep(0.02)
    (child, _) = tree.descendants()
    answer = getattr(linux.Process, question)
    with monkeypatch.context() as patch:
        patch.setattr(
            linux.Process, question, lambda self, *a, **k: (refusal if self.pid == child.pid else answer)(self, *a, **k)
        )
        reading = tree.read()
        assert {name for name, value in vars(reading).items() if value is None} == unknown | {"pss_bytes"}  # not due
        assert reading.processes == 3
        assert child.pid in [process.pid for process in tree.descendants()]
    time.sleep(0.02)
    assert {name for name, value in vars(tree.read()).items() if value is None} == {"pss_bytes"}


def test_utilization_after_a_gap_is_that_of_the_whole_gap(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    burner = start(BURNER)
    tree = ProcessTree(burner.pid, 1)
    own_s, started = float(tell(burner, "0.1")), time.monotonic()
    tree.read()
    own_s = float(tell(burner, "0.5")) - own_s
    with monkeypatch.context() as patch:
        patch.setattr(linux.Process, "cpu_times", denied)
        assert tree.read().cpu_utilization_percent is None
    time.sleep(0.5)
    elapsed = time.monotonic() - started
    assert tree.read().cpu_utilization_percent == pytest.approx(100 * own_s / elapsed, rel=0.2)


def test_a_proc_that_cannot_be_listed_leaves_the_processes_known_so_far(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = ProcessTree(start(FORKER).pid, 1)
    assert tree.read().processes == 3

    def refuse() -> list[int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(psutil, "pids", refuse)
    assert tree.read().processes == 3
    assert len(tree.descendants()) == 2


def test_a_process_that_becomes_a_zombie_during_its_reading_counts_once(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    burner = start(BURNER)
    tree = ProcessTree(burner.pid, 1)
    own_s = float(tell(burner, "0.4"))
    tree.read()

    def ended(self: linux.Process) -> None:
        raise psutil.ZombieProcess(self.pid)

    with monkeypatch.context() as patch:
        patch.setattr(linux.Process, "io_counters", ended)
        tree.read()
    assert tree.read().cpu_seconds_total == pytest.approx(own_s, rel=0.2)


def test_a_tree_without_known_cores_has_a_percentage_and_no_ratio(start: Start) -> None:
    tree = ProcessTree(start(IDLE).pid, None)
    tree.read()
    time.sleep(0.02)
    reading = tree.read()
    assert reading.cpu_utilization_percent is not None
    assert reading.cpu_utilization_ratio is None
