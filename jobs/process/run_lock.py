"""One job of a kind at a time in a folder that it writes, whichever host they are on: one training of a run, say."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from mspipeline.console import say_error
from mspipeline.errors import FolderInUse, StorageError
from mspipeline.files import PARTIAL
from mspipeline.jobs.job import Job
from mspipeline.parallel.lock import hold, holder_of
from mspipeline.runs import RunPaths

WAIT_S = 1.0


@contextmanager
def hold_run(folder: Path, job: Job[Any]) -> Iterator[None]:
    """Hold a folder for a job that writes it, and clear away what killed ones left half-written.

    Raises FolderInUse where another one works on the run, StorageError where the folder cannot be written. A process
    that gave no sign of life for so long that another took the run (suspended, cut off from its file server) ends at
    once with FolderInUse's code, and its children with it: what it would write is the other's by now.
    """
    file = RunPaths(folder).lock(job.name)
    writes, remedy = (job.watched.writes, job.watched.remedy) if job.watched else ((), "")

    def lost() -> None:
        say_error(f"{folder}: taken over by {holder_of(file)}, for this {job.name} had stopped; it ends here")
        sys.stderr.flush()
        os._exit(FolderInUse.exit_code)

    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(hold(file, wait_s=WAIT_S, on_lost=lost))
        except (OSError, StorageError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            reason = cause.strerror if isinstance(cause, OSError) else str(error)
            raise StorageError(f"{folder}: cannot be written ({reason}); {remedy}") from error
        if lock is None:
            raise FolderInUse(
                f"{folder}: another {job.name} works on this run ({holder_of(file) or 'it just began'}); "
                "wait until it has ended, then run the same command again"
            )
        for pattern in writes:
            for partial in folder.glob(f"{pattern}{PARTIAL}"):
                with suppress(OSError):
                    partial.unlink()
        yield
