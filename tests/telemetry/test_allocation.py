"""The kernel's files are rebuilt in a folder; the affinity mask is this process's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mspipeline.telemetry.allocation import allocated_cpus, allocated_memory_bytes, own_cpus

PID = os.getpid()
CORES = len(os.sched_getaffinity(PID))
MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def machine(folder: Path, membership: str, files: dict[str, str]) -> dict[str, Path]:
    """A /proc and a /sys/fs/cgroup with these contents."""
    proc, cgroups = folder / "proc", folder / "cgroup"
    for path, text in {proc / str(PID) / "cgroup": membership, **{cgroups / n: t for n, t in files.items()}}.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return {"proc": proc, "cgroups": cgroups}


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/", {"cpu.max": "max 100000"}, CORES),
        ("0::/", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/job/step", {"job/cpu.max": "25000 100000", "job/step/cpu.max": "max 100000"}, 0.25),
        ("0::/of/the/host", {"cpu.max": "50000 200000"}, 0.25),
        ("4:cpu,cpuacct:/", {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, CORES),
        ("4:cpu,cpuacct:/job", {"cpu/job/cpu.cfs_quota_us": "10000", "cpu/job/cpu.cfs_period_us": "100000"}, 0.1),
        ("3:memory:/\n0::/", {"unified/cpu.max": "75000 100000"}, 0.75),
        ("", {}, CORES),
        ("0::/", {"cpu.max": "0 100000"}, CORES),  # a quota of nothing is no quota
        ("0::/", {"cpu.max": ""}, CORES),
        ("no line of a kernel's\n0::/", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/k\u00f6ln", {"k\u00f6ln/cpu.max": "50000 100000"}, 0.5),
    ],
)
def test_cores_are_those_of_the_mask_or_of_a_lower_quota(
    tmp_path: Path, membership: str, files: dict[str, str], expected: float
) -> None:
    assert allocated_cpus(PID, **machine(tmp_path, membership, files)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/", {"memory.max": "max"}, MACHINE),
        ("0::/job", {"memory.max": "8000000", "job/memory.max": "max"}, 8_000_000),
        ("4:memory:/job", {"memory/job/memory.limit_in_bytes": "5000000"}, 5_000_000),
        ("4:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, MACHINE),
        ("4:cpu:/", {"cpu/memory.limit_in_bytes": "1"}, MACHINE),
        ("0::/", {"memory.max": "0"}, MACHINE),
    ],
)
def test_memory_is_the_machines_or_a_lower_limit(
    tmp_path: Path, membership: str, files: dict[str, str], expected: int
) -> None:
    assert allocated_memory_bytes(PID, **machine(tmp_path, membership, files)) == expected


def test_a_cgroup_of_any_bytes_is_followed(tmp_path: Path) -> None:
    places = machine(tmp_path, "", {})
    (tmp_path / "proc" / str(PID) / "cgroup").write_bytes(b"0::/k\xf6ln\n0::/null\x00byte\n")
    folder = tmp_path / "cgroup" / os.fsdecode(b"k\xf6ln")
    folder.mkdir(parents=True)
    (folder / "cpu.max").write_text("50000 100000\n")
    assert allocated_cpus(PID, **places) == 0.5


def test_a_mask_that_a_sandbox_forbids_to_read_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> set[int]:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getaffinity", refuse)
    assert allocated_cpus(PID) is None


def test_a_process_bound_to_one_core_has_one(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    script = f"import os; os.sched_setaffinity(0, {{{core}}}); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert allocated_cpus(process.pid, proc=tmp_path, cgroups=tmp_path) == 1
        process.communicate(b"\n")


def test_this_machine_gives_a_sound_answer() -> None:
    assert 0 < (allocated_cpus(PID) or 0) <= CORES
    assert 0 < allocated_memory_bytes(PID) <= MACHINE


@pytest.mark.parametrize(
    ("given", "expected"), [("1", 1), (str(CORES + 5), CORES), (None, CORES), ("", CORES), ("0", CORES)]
)
def test_threads_follow_slurm_where_the_process_may_run_on_more_cores(given: str | None, expected: int) -> None:
    assert own_cpus({} if given is None else {"SLURM_CPUS_PER_TASK": given}) == expected
