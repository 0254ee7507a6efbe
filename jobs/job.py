"""What a job is: its settings, what runs it, the folder that it is watched in, the processes that share its work.

One file a job, ending in `JOB = Job(...)`. Such a file is read to launch and to supervise, so it imports nothing heavy:
what does the work is imported when `run` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from mspipeline.backends.process_group import ALONE, ProcessGroup
from mspipeline.config import Settings
from mspipeline.parallel.ranks import Team
from mspipeline.telemetry.events import EventWriter


@dataclass(frozen=True)
class JobContext:
    """What a job is given beside its settings.

    events: takes its phases. draws: whether it shows its progress on stderr. attempt: how often it was started on its
    folder before, under the supervisor. group: the processes that it trains with. team: the MPI ranks that share its
    work; None for a job without `open_team`.
    """

    events: EventWriter
    draws: bool
    attempt: int = 0
    group: ProcessGroup = ALONE
    team: Team | None = None


@dataclass(frozen=True)
class Watched(Generic[Settings]):
    """How a job runs under the supervisor.

    folder: of a job with these settings; its telemetry goes to FOLDER/telemetry/NAME-ATTEMPT. run_id: what the rows of
    telemetry carry. writes: the files in the folder that this job alone writes, as patterns: it then holds the folder
    while it works, and a second one is refused; a job that only reads the folder has none. remedy: what to do where a
    folder that it writes cannot be written.
    """

    folder: Callable[[Settings], Path]
    run_id: Callable[[Settings], str]
    writes: tuple[str, ...] = ()
    remedy: str = "choose another folder"


@dataclass(frozen=True)
class Processes(Generic[Settings]):
    """How many processes do a job together, as `mspipeline.jobs.process.data_parallel` starts them.

    share_cores: whether each gets its part of this process's cores, else all may use all.
    """

    number: Callable[[Settings], int]
    share_cores: Callable[[Settings], bool]


@dataclass(frozen=True)
class Job(Generic[Settings]):
    """A job: `python -m mspipeline.jobs NAME FILE`.

    name: on the command line, in names of files and in telemetry. schema: of its settings, the keys of FILE.
    run: does the work; raises errors of `mspipeline.errors`, whose exit code the process ends with.
    watched: None where it only runs bare. processes: None where one process does it alone. open_team: of the MPI ranks
    that share its work, entered before FILE is read; gives None on ranks that have nothing else to do.
    """

    name: str
    schema: type[Settings]
    run: Callable[[Settings, JobContext], None]
    watched: Watched[Settings] | None = None
    processes: Processes[Settings] | None = None
    open_team: Callable[[Mapping[str, str]], AbstractContextManager[Team | None]] | None = None

    @property
    def holds_its_folder(self) -> bool:
        """Whether one of its kind at a time works in a folder."""
        return self.watched is not None and bool(self.watched.writes)
