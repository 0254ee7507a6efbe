"""What share of the machine a process may use: its CPU affinity and its cgroup's limits (versions 1 and 2)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def allocated_cpus(pid: int, *, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> float | None:
    """The cores that `pid` may use: those of its affinity mask, or fewer where a cgroup's quota is lower.

    A quota of 150 ms in each 100 ms gives 1.5. None where the mask cannot be read (a sandbox forbids the call). Raises
    ProcessLookupError where there is no such process.
    """
    try:
        limits = [float(len(os.sched_getaffinity(pid)))]
    except ProcessLookupError:
        raise
    except OSError:
        return None
    for folder in _folders(pid, "cpu", proc, cgroups):
        quota, _, period = (_text(folder / "cpu.max") or "").partition(" ")
        if not quota:
            quota, period = _text(folder / "cpu.cfs_quota_us") or "", _text(folder / "cpu.cfs_period_us") or ""
        if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):  # "max" and "-1" set no limit
            limits.append(int(quota) / int(period))
    return min(limits)


def own_cpus(environ: Mapping[str, str]) -> int:
    """The cores for this process's threads: those that it may run on, or what SLURM gave its task where that is fewer.

    A cluster that binds nothing lets a task run on every core of its node, those of other jobs among them.
    """
    bound, given = len(os.sched_getaffinity(0)), environ.get("SLURM_CPUS_PER_TASK", "")
    return min(bound, int(given)) if given.isdecimal() and int(given) else bound


def allocated_memory_bytes(pid: int, *, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """The memory that `pid` may use: the machine's, or less where a cgroup's limit is lower."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _folders(pid, "memory", proc, cgroups):
        limit = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes") or ""
        if limit.isdecimal() and int(limit):
            limits.append(int(limit))
    return min(limits)


def _folders(pid: int, controller: str, proc: Path, cgroups: Path) -> Iterator[Path]:
    """The folders of a process's cgroup and of all above it, which limit it too.

    Lines read `0::/path` (version 2) or `4:cpu,cpuacct:/path` (version 1). Inside a container the path may be that of
    the host and not exist: then the mount's root, which is met last, is the container's own.
    """
    for line in (_text(proc / str(pid) / "cgroup") or "").splitlines():
        _, first, rest = line.partition(":")
        controllers, second, path = rest.partition(":")
        if not (first and second):  # no line that a kernel writes
            continue
        if controllers == "":
            mounts = [cgroups, cgroups / "unified"]
        elif controller in controllers.split(","):
            mounts = [cgroups / controllers, cgroups / controller]
        else:
            continue
        for mount in mounts:
            inside = Path(path.lstrip("/"))
            yield from (mount / part for part in [inside, *inside.parents])


def _text(path: Path) -> str | None:
    """What a file holds, None where it is absent or unreadable. A cgroup's name may be of any bytes."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except (OSError, ValueError):  # ValueError: a NUL in a name that was made of garbage
        return None
