"""What a scheduler is: it takes cells as jobs, tells what becomes of them, and ends them when asked.

One class for each kind of site; `schedulers.py` finds it by the site's `executor`. A campaign asks nothing but this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from mspipeline.campaigns.attempt import AttemptRecord
from mspipeline.campaigns.finding import Finding
from mspipeline.campaigns.job_shape import PLAIN, JobShape
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.submission import CellSubmission, Handle, Submission

Place = Literal["over", "waits", "on a node", "unknown"]
"""Where a job is. over: no longer in the queue. unknown: nobody answers."""
Pair = tuple[Submission | None, AttemptRecord | None]
"""The job that a cell was last handed to, and its latest attempt."""


class NoAnswer(Exception):
    """The scheduler does not say how a job ended: nothing is to be judged before it does."""


@dataclass(frozen=True)
class JobEnd:
    """How a job ended. unknown: the scheduler does not know the job, or keeps no record. word: its own name for it."""

    reason: Literal["unknown", "cancelled", "preempted", "time limit", "node failed", "out of memory", "other"] = (
        "unknown"
    )
    word: str = ""


@dataclass(frozen=True)
class Obstacle:
    """Why a job in the queue will not start by itself. remark: the reason and the remedy, for people.

    held: a node could not start it, and it may be released to try again. dependency: a job that it waits for has
    failed. hopeless: it asks for what it will not be given; the reason may pass, so it counts only after a while.
    """

    kind: Literal["held", "dependency", "hopeless"]
    remark: str


@dataclass(frozen=True)
class JobRequest:
    """Cells of one shape that are handed to a site together.

    device: of all of them; it chooses the partition. name: of the jobs. logs: a folder of this submission's own.
    backend: whose image the commands run in; empty where the site has no images. gpu: whether a container is given
    GPUs. folders: what a container sees and may write to, read_only: and what it may only read. on_host: numbers of
    the commands that run outside of the container.
    """

    site: Site
    device: str
    name: str
    cells: Sequence[CellSubmission]
    logs: Path
    shape: JobShape = PLAIN
    backend: str = ""
    gpu: bool = False
    folders: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    on_host: tuple[int, ...] = ()


class Scheduler(ABC):
    """One kind of site.

    title: its name in messages. queues: whether it keeps jobs in a queue of its own, so that all cells and what they
    wait for are handed over at once and nobody has to stay. runs_here: whether cells run on this very machine.
    warning_signal: with which it warns a cell before its time limit; None where it does not warn.
    """

    title: ClassVar[str]
    queues: ClassVar[bool]
    runs_here: ClassVar[bool]
    warning_signal: ClassVar[str | None] = None

    # A site file, and the machine and cluster that it is for.

    @abstractmethod
    def validate(self, site: Site) -> None:
        """Raise ConfigError where a site file asks for what this scheduler does not have. Asks no program."""

    @abstractmethod
    def limit(self, site: Site) -> float:
        """How many cells may be with the scheduler at a time; infinite where it keeps to the site's limit itself."""

    @abstractmethod
    def memory_limit_gb(self, partition: Partition) -> float | None:
        """GiB of memory at which a cell is ended; None where nothing ends it."""

    @abstractmethod
    def refuse_if_absent(self, what: str) -> None:
        """Raise ConfigError, which begins with `what`, where the scheduler's programs are not on this machine."""

    @abstractmethod
    def check(self, site: Site, backends: Sequence[str]) -> None:
        """Raise ConfigError where the site could not run cells of these backends as it is now."""

    @abstractmethod
    def findings(self, site: Site) -> list[Finding]:
        """What `mspipeline doctor` shows of a site; starts no job."""

    @abstractmethod
    def probe(self, site: Site, folder: Path) -> list[Finding]:
        """What a short job finds on each partition. folder: where campaigns would be."""

    # Jobs before they are submitted.

    @abstractmethod
    def pack(self, partition: Partition) -> int:
        """How many cells of one process share a job."""

    @abstractmethod
    def launcher(self, processes: int, partition: Partition) -> list[str]:
        """The words that start the processes of a step; none where the step starts them itself."""

    @abstractmethod
    def mpi_launcher(self, site: Site, ranks: int) -> list[str]:
        """The words that start the ranks of a preparation."""

    @abstractmethod
    def script(self, site: Site, device: str, count: int, logs: Path, *, name: str, shape: JobShape) -> str | None:
        """The batch script of `count` cells, to read; None where there is none. Needs no cluster, writes nothing."""

    # Jobs.

    @abstractmethod
    def submit(self, request: JobRequest) -> list[Handle]:
        """Hand cells over and record each in its folder's submission.json; their handles, in their order.

        Raises ConfigError where the site cannot take them, StorageError where `logs` cannot be written.
        """

    @abstractmethod
    def answers(self) -> bool:
        """Whether the scheduler answers at present."""

    @abstractmethod
    def forget(self) -> None:
        """Ask again next time, whatever was answered just now."""

    @abstractmethod
    def queued(self, submission: Submission) -> bool:
        """Whether the cell's jobs still wait or run. What nobody can tell counts as such."""

    @abstractmethod
    def place(self, submission: Submission, jobs: Sequence[str]) -> Place:
        """Where these jobs of a submission are: on a node if one of them is, in the queue if one still waits."""

    @abstractmethod
    def place_of_attempt(self, attempt: AttemptRecord, submission: Submission | None, *, here: bool) -> Place:
        """Where the job of an attempt is, also of one that could not be recorded when it was submitted.

        here: whether the attempt ran on this host.
        """

    @abstractmethod
    def remark(self, job_id: str) -> str:
        """What people should know of a job in the queue; mostly nothing."""

    @abstractmethod
    def stuck(self) -> bool:
        """Whether any job may have an obstacle: a cheap question before `obstacle`."""

    @abstractmethod
    def obstacle(self, job_id: str) -> Obstacle | None:
        """Why a job will not start by itself; None where it will, or where nobody answers."""

    @abstractmethod
    def release(self, job_id: str) -> None:
        """Let a held job try again."""

    @abstractmethod
    def withdraw(self, jobs: Iterable[str]) -> None:
        """Take jobs out of the queue, and end in order those that run."""

    @abstractmethod
    def stop(self, cells: Sequence[Pair]) -> None:
        """Ask cells to end in order: state saved, no process left. Asking again does no harm."""

    @abstractmethod
    def kill(self, cells: Sequence[Pair]) -> None:
        """End all processes of cells at once; what was not on disk is lost."""

    @abstractmethod
    def out_of_reach(self, submission: Submission) -> str:
        """Why a cell cannot be stopped from this machine; empty where it can."""

    # Jobs that are over.

    @abstractmethod
    def end_of(self, job_id: str) -> JobEnd:
        """How a job ended. Raises NoAnswer where the scheduler may tell it later."""

    @abstractmethod
    def refusal(self, submission: Submission) -> str:
        """Why a job ended before its work began, where its log has the reason; else empty."""

    @abstractmethod
    def peak_bytes(self, job_id: str) -> int | None:
        """The most memory that a job had, by the scheduler's accounting; None where it does not say."""

    @abstractmethod
    def memory_kill(self, log_text: str) -> tuple[int, int] | None:
        """Peak and limit, in bytes, of a job whose log says that the scheduler ended it for its memory; else None."""
