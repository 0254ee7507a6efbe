"""Work shared among MPI ranks: rank 0 decides and works, the others work for it, one speaks for all.

    with open_team(os.environ) as team:
        if team is None:         # another rank than 0: it has done its share
            return
        results = team.run(work, items, costs=..., names=..., done=...)

A process that no MPI launcher started is a team of one, and mpi4py is not imported. On rank 0 a thread hands out the
tasks, while the main thread works like every other rank; that thread alone then talks MPI, so MPI_THREAD_SERIALIZED is
enough. Who waits sleeps between looks: MPI's own waiting would keep the core from the ranks that still work.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Generic, TypeVar

from mspipeline.errors import SuiteError
from mspipeline.parallel.deal import Deal
from mspipeline.parallel.launchers import communicator, launch_of, own_cores
from mspipeline.telemetry.allocation import own_cpus

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Value = TypeVar("Value")

TAG = 1
PAUSE_S = 0.002
"""Between two looks for a message: small beside a case, and next to no load."""


class Stopped(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGUSR2 came. number: which."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass(frozen=True)
class Member:
    """One rank. threads: cores of its own; one that several ranks may use counts as a share."""

    rank: int
    host: str
    threads: int


@dataclass(frozen=True)
class Done(Generic[Value]):
    """One task. place: in the list of tasks. seconds: that it took on its rank."""

    place: int
    value: Value
    rank: int
    seconds: float


@dataclass(frozen=True)
class _Failed:
    error: BaseException
    rank: int


@dataclass(frozen=True)
class _Phase:
    """Tasks that are being handed out."""

    work: Callable[[Any, int], Any]
    items: Sequence[Any]
    names: Sequence[str]
    deal: Deal


@contextmanager
def open_team(environ: Mapping[str, str]) -> Iterator[Team | None]:
    """The team on rank 0; on every other rank None, after it has worked until rank 0 left its block.

    In the block INT, TERM and USR2 raise Stopped, on whichever rank they come, and from there on rank 0.
    Raises BackendError on rank 0 where a launcher started several processes that cannot talk to each other; the other
    ranks then end without a word.
    """
    launch = launch_of(environ)
    with _Signals() as signals:
        if launch is None or launch.size == 1:
            signals.raising = True
            yield one_process(own_cpus(environ))
            return
        comm = communicator(launch)
        threads = min(own_cores(comm), own_cpus(environ))
        members = comm.gather(Member(comm.rank, socket.gethostname(), threads), root=0)
        if comm.rank:
            _serve(comm, threads, signals)
            yield None
            return
        team = Team(comm, tuple(members))
        try:
            signals.raising = True
            yield team
        finally:
            signals.raising = False
            team.close()


def one_process(threads: int | None = None) -> Team:
    """This process alone. threads: None for every core that it may run on."""
    return Team(None, (Member(0, socket.gethostname(), threads or len(os.sched_getaffinity(0))),))


class Team:
    """Rank 0's side. members: every rank, by rank."""

    def __init__(self, comm: Any, members: tuple[Member, ...]) -> None:
        self.members = members
        self._comm = comm
        self._phase: _Phase | None = None
        self._outcomes: queue.SimpleQueue[Done[Any] | _Failed] = queue.SimpleQueue()
        self._closing = False
        self._busy = 0
        self._hands_out = threading.Thread(target=self._hand_out, name="hand-out", daemon=True)
        if comm is not None:
            self._hands_out.start()

    @property
    def size(self) -> int:
        """Ranks, with this one."""
        return len(self.members)

    def run(
        self,
        work: Callable[[Item, int], Value],
        items: Sequence[Item],
        *,
        costs: Sequence[float],
        names: Sequence[str],
        done: Callable[[Done[Value]], None] = lambda one: None,
    ) -> list[Value]:
        """`work(item, threads)` of every item on some rank; the values in the items' order, whoever made them.

        work, items and values travel between processes: a function of a module, plain data. costs: of each item,
        which decide the order. names: of each, for errors nobody foresaw. done: called here, after each.
        Raises what `work` raised first, wherever it was, once every rank has ended what it had begun.
        """
        phase = self._phase = _Phase(work, items, names, Deal(costs, self.size))
        values: dict[int, Value] = {}
        try:
            while len(values) < len(items):
                place = phase.deal.next()
                if place is not None:
                    started = time.perf_counter()
                    value = _work(work, items[place], self.members[0].threads, names[place])
                    self._take(Done(place, value, 0, time.perf_counter() - started), values, done)
                while len(values) < len(items) and (place is None or not self._outcomes.empty()):
                    outcome = self._outcomes.get()
                    if isinstance(outcome, _Failed):
                        log.info("rank %d failed: %s", outcome.rank, outcome.error)
                        raise outcome.error
                    self._take(outcome, values, done)
        except BaseException:
            phase.deal.stop()
            while self._busy:
                time.sleep(PAUSE_S)
            raise
        return [values[place] for place in range(len(items))]

    def close(self) -> None:
        """Hand out nothing more, wait until every rank has ended what it does, and let them go."""
        if self._phase is not None:
            self._phase.deal.stop()
        self._closing = True
        if self._comm is not None:
            self._hands_out.join()

    @staticmethod
    def _take(one: Done[Value], values: dict[int, Value], done: Callable[[Done[Value]], None]) -> None:
        values[one.place] = one.value
        done(one)

    def _hand_out(self) -> None:
        """Answer the other ranks until all of them are free and the team is closing."""
        with _aborting(self._comm):
            free: deque[int] = deque()
            while not (self._closing and len(free) == self.size - 1):
                quiet = True
                while self._comm.iprobe(tag=TAG):
                    rank, outcome, was = self._comm.recv(tag=TAG)
                    if outcome is not None:
                        self._outcomes.put(outcome)
                    if was != "waiting":
                        free.append(rank)
                        self._busy -= was == "busy"
                    quiet = False
                phase = self._phase
                while phase and free:
                    self._busy += 1  # before the task is taken: `run` waits for it from then on
                    place = phase.deal.next()
                    if place is None:
                        self._busy -= 1
                        break
                    order = (phase.work, place, phase.items[place], phase.names[place])
                    self._comm.send(order, free.popleft(), tag=TAG)
                    quiet = False
                if quiet:
                    time.sleep(PAUSE_S)
            for rank in free:
                self._comm.send(None, rank, tag=TAG)


def _serve(comm: Any, threads: int, signals: _Signals) -> None:
    """Another rank than 0: ask, work, tell, until rank 0 has nothing more."""
    with _aborting(comm):
        outcome: Done[Any] | _Failed | None = None
        reported: int | None = None
        while True:
            comm.send((comm.rank, outcome, "new" if outcome is None else "busy"), 0, tag=TAG)
            while not comm.iprobe(source=0, tag=TAG):
                if signals.came is not None and signals.came != reported:
                    reported = signals.came
                    comm.send((comm.rank, _Failed(Stopped(reported), comm.rank), "waiting"), 0, tag=TAG)
                time.sleep(PAUSE_S)
            order = comm.recv(source=0, tag=TAG)
            if order is None:
                return
            outcome = _attempt(comm.rank, threads, signals, *order)


def _attempt(
    rank: int, threads: int, signals: _Signals, work: Callable[[Any, int], Any], place: int, item: Any, name: str
) -> Done[Any] | _Failed:
    """Do one task and tell how it ended. Its traceback goes along, for `--debug`."""
    started = time.perf_counter()
    try:
        with signals.raised():
            value = _work(work, item, threads, name)
        return Done(place, value, rank, time.perf_counter() - started)
    except Stopped as stopped:
        return _Failed(stopped, rank)
    except SuiteError as error:
        error.add_note(f"on rank {rank}:\n{traceback.format_exc()}")
        return _Failed(error, rank)


def _work(work: Callable[[Item, int], Value], item: Item, threads: int, name: str) -> Value:
    """`work(item, threads)`; an error that nobody foresaw becomes a SuiteError with the task's name."""
    try:
        return work(item, threads)
    except SuiteError:
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise SuiteError(f"{name}: {text}; run with --debug for a traceback") from error


class _Signals:
    """INT, TERM and USR2 as Stopped, where and when an exception does no harm: never in the middle of a message.

    One that comes at another time is raised before the next task; `came` tells which. A signal that was ignored on
    entry (nohup) stays so.
    """

    def __init__(self) -> None:
        self.raising = False
        self.came: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """In this block a signal raises Stopped, one that came before it, too."""
        self.raising = True
        try:
            if self.came is not None:
                raise Stopped(self.came)
            yield
        finally:
            self.raising = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = number
        if self.raising:
            raise Stopped(number)


@contextmanager
def _aborting(comm: Any) -> Iterator[None]:
    """What escapes here would leave the other ranks waiting for ever: end them all."""
    try:
        yield
    except BaseException:
        traceback.print_exc()
        comm.Abort(SuiteError.exit_code)
