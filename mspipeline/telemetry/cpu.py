"""Readings of a process and all it started: CPU time, memory, disk traffic. Unknown is None, never 0."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import psutil

from mspipeline.telemetry.procfs import UNREADABLE, ask, proportional_set_bytes

_PSS_PERIOD_S = 10.0
_PSS_COST_SHARE = 0.005  # a PSS reading walks page tables: 21 ms for 2 GB in 4-KiB pages (2-core Xeon VM)


@dataclass(frozen=True)
class CpuReading:
    """One reading of a process tree, named as the columns of the samples.

    cpu_utilization_percent: of one core, as in top, since the reading before; None at the first.
    cpu_utilization_ratio: the same, of all allocated cores.
    cpu_seconds_total: user and system time of all processes so far, those that died included.
    processes, threads: alive now; the rest is None where none is. What cannot be read of one process is None for the
    tree: a sum without it would be too low.
    rss_bytes: sum over processes; pages they share count in each. pss_bytes: shared pages shared out; mostly None,
    for it is dear to read.
    read_bytes_total, write_bytes_total: traffic with the disk so far, not with the page cache.
    """

    cpu_utilization_percent: float | None
    cpu_utilization_ratio: float | None
    cpu_seconds_total: float | None
    processes: int | None
    threads: int | None
    rss_bytes: int | None
    pss_bytes: int | None
    read_bytes_total: int | None
    write_bytes_total: int | None


UNKNOWN = CpuReading(None, None, None, None, None, None, None, None, None)
"""The reading of a tree that could not be read at all."""


@dataclass(frozen=True)
class _Counters:
    """A process's counters as last seen: CPU seconds, bytes read, bytes written.

    totals: its own and those of the children that it waited for, which the kernel adds to the parent's.
    absorbing: the counters that grow when it waits for a child.
    """

    totals: tuple[float, float, float]
    absorbing: tuple[float, float, float]


class ProcessTree:
    """The process `pid` and all it started, read again and again. Not for two threads at once.

    A process belongs to the tree when its parent did at first sight, or when it is of the session that `pid` leads; it
    stays in the tree when its parent dies. One that is started and orphaned between two readings, in a session
    of its own, goes unseen.
    allocated_cpus: the cores that count as a utilisation ratio of 1; None where nobody knows.
    pss_period_s: seconds between two readings of PSS; more where they would take over 0.5 % of the time.
    """

    def __init__(self, pid: int, allocated_cpus: float | None, *, pss_period_s: float = _PSS_PERIOD_S) -> None:
        self._pid = pid
        self._allocated_cpus = allocated_cpus
        self._members: dict[int, psutil.Process] = {}
        self._parents: dict[int, int] = {}
        self._strangers: set[int] = set()
        self._seen: dict[int, _Counters] = {}
        self._lost = (0.0, 0.0, 0.0)  # counters of processes whose parent never waited for them
        self._totals = (0.0, 0.0, 0.0)
        self._disk_unread: set[int] = set()  # processes whose last disk reading failed; one that dies so stays here
        self._cpu_unread: set[int] = set()  # the same of their CPU time
        self._known = False
        self._read_at: float | None = None  # the last reading with the CPU time of every process
        self._burnt = 0.0  # CPU seconds found since then
        self._pss_period_s = pss_period_s
        self._pss_due = 0.0

    def read(self) -> CpuReading:
        """One reading. A process that vanishes meanwhile is skipped; its last known counters stay in the totals.

        What the system refuses to tell (another user's process, a disk error below /proc) is None, and is asked again
        at the next reading.
        """
        now = time.monotonic()
        self._find_members()
        counters: dict[int, _Counters] = {}
        alive: list[psutil.Process] = []
        threads: list[int | None] = []
        rss: list[int | None] = []
        for pid, process in self._members.items():
            try:
                with process.oneshot():
                    status = ask(process.status)
                    counters[pid] = self._counters(process, status)
                    if status not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                        memory = ask(process.memory_info)
                        threads.append(ask(process.num_threads))
                        rss.append(None if memory is None else memory.rss)
                        alive.append(process)
            except psutil.NoSuchProcess:
                counters.pop(pid, None)
        self._known = self._known or bool(counters)
        self._cpu_unread &= counters.keys()  # what has ended is in its parent's counters
        self._settle(counters)
        grown = _largest(self._totals, _add(self._lost, *(c.totals for c in counters.values())))
        before, self._totals = self._totals, grown
        disk_known = self._known and not self._disk_unread
        cpu_known = self._known and not self._cpu_unread
        percent = self._percent(now, grown[0] - before[0], cpu_known)
        return CpuReading(
            cpu_utilization_percent=percent,
            cpu_utilization_ratio=None
            if percent is None or not self._allocated_cpus
            else percent / 100 / self._allocated_cpus,
            cpu_seconds_total=self._totals[0] if cpu_known else None,
            processes=len(alive),
            threads=_sum(threads),
            rss_bytes=_sum(rss) if alive else None,
            pss_bytes=self._pss(alive, now),
            read_bytes_total=int(self._totals[1]) if disk_known else None,
            write_bytes_total=int(self._totals[2]) if disk_known else None,
        )

    def descendants(self) -> list[psutil.Process]:
        """The processes of the tree but its root that are alive now, as far as the system tells."""
        self._find_members()
        found = []
        for pid, process in self._members.items():
            try:
                if pid != self._pid and ask(process.status) != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def _percent(self, now: float, seconds: float, known: bool) -> float | None:
        """Percent of a core since the last reading whose CPU time was known of every process."""
        self._burnt += seconds
        if not known:
            return None
        elapsed, self._read_at = now - (self._read_at if self._read_at is not None else now), now
        burnt, self._burnt = self._burnt, 0.0
        return 100 * burnt / elapsed if elapsed else None

    def _find_members(self) -> None:
        """Bring `_members` up to date. Only processes not seen before are looked at: the machine may run thousands."""
        listed = ask(psutil.pids)
        if listed is None:  # /proc itself cannot be read: those we know are asked
            return
        pids = set(listed)
        self._strangers &= pids
        self._members = {pid: process for pid, process in self._members.items() if pid in pids}
        new: dict[int, psutil.Process] = {}
        for pid in pids - self._members.keys() - self._strangers:
            try:
                process = psutil.Process(pid)
                parent, ours = process.ppid(), pid == self._pid or os.getsid(pid) == self._pid
            except UNREADABLE:  # gone again, or looked at once more at the next reading
                continue
            self._parents[pid] = parent
            (self._members if ours else new)[pid] = process
        while children := [pid for pid in new if self._parents[pid] in self._members]:
            self._members.update((pid, new.pop(pid)) for pid in children)
        self._strangers.update(new)
        for pid in new:
            del self._parents[pid]

    def _counters(self, process: psutil.Process, status: str | None) -> _Counters:
        """The counters of a process; those that cannot be read stand as they were."""
        seen = self._seen.get(process.pid)
        total, read, written = seen.totals if seen else (0.0, 0.0, 0.0)
        waited_for = seen.absorbing[0] if seen else 0.0
        cpu = ask(process.cpu_times)
        if cpu is None:
            self._cpu_unread.add(process.pid)
        else:
            self._cpu_unread.discard(process.pid)
            waited_for = cpu.children_user + cpu.children_system
            total = cpu.user + cpu.system + waited_for
        if status != psutil.STATUS_ZOMBIE:  # a zombie's disk counters are closed to us: its last ones stand
            disk = ask(process.io_counters)
            if disk is None:
                self._disk_unread.add(process.pid)
            else:
                read, written = float(disk.read_bytes), float(disk.write_bytes)
                self._disk_unread.discard(process.pid)
        return _Counters((total, read, written), (waited_for, read, written))

    def _settle(self, counters: dict[int, _Counters]) -> None:
        """Take over `counters`; what dead processes had and no living ancestor absorbed goes to `_lost`."""
        owed: dict[int, tuple[float, float, float]] = {}
        for pid in self._seen.keys() - counters.keys():
            heir = pid
            while heir in self._parents and heir not in counters:
                heir = self._parents[heir]
            if heir in counters:
                owed[heir] = _add(owed.get(heir, (0.0, 0.0, 0.0)), self._seen[pid].totals)
            else:
                self._lost = _add(self._lost, self._seen[pid].totals)
        for heir, debt in owed.items():
            before = self._seen[heir].absorbing if heir in self._seen else (0.0, 0.0, 0.0)
            growth = tuple(max(late - early, 0.0) for late, early in zip(counters[heir].absorbing, before, strict=True))
            missing = (debt[0] - growth[0], debt[1] - growth[1], debt[2] - growth[2])
            self._lost = _add(self._lost, _largest(missing, (0.0, 0.0, 0.0)))
        for pid in self._seen.keys() - counters.keys():
            self._parents.pop(pid, None)
        self._seen = counters

    def _pss(self, alive: list[psutil.Process], now: float) -> int | None:
        if not alive or now < self._pss_due:
            return None
        started = time.perf_counter()
        shares = [proportional_set_bytes(process.pid) for process in alive]
        self._pss_due = now + max(self._pss_period_s, (time.perf_counter() - started) / _PSS_COST_SHARE)
        known = [share for share in shares if share is not None]
        return sum(known) if len(known) == len(shares) else None


def _add(*counters: tuple[float, float, float]) -> tuple[float, float, float]:
    return (sum(c[0] for c in counters), sum(c[1] for c in counters), sum(c[2] for c in counters))


def _largest(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float, float]:
    return (max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2]))


def _sum(values: list[int | None]) -> int | None:
    """The sum, None where one of the values is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
