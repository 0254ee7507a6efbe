"""One training, and one evaluation, at a time on a run, whichever host they are on.

A prediction takes no lock: it only reads the run. Neither does an evaluation stand in the way of a training: it reads a
checkpoint, which appears whole, and writes files of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mspipeline.console import say_error
from mspipeline.errors import FolderInUse, StorageError
from mspipeline.files import PARTIAL
from mspipeline.parallel.lock import hold, holder_of
from mspipeline.runs import RunPaths

WAIT_S = 1.0
WRITES = {
    "train": ("run.json", "epochs.*", "checkpoints/*", "checkpoints/stage*/*"),
    "evaluate": ("cases.*", "lesions.*"),
}
"""The files of each job that holds a run, as patterns."""
NEEDS = {
    "train": "choose another output folder",
    "evaluate": "evaluate keeps its scores in the run's folder: copy the run to a place that you may write",
}


@contextmanager
def hold_run(folder: Path, job: str) -> Iterator[None]:
    """Hold a run for `job`, "train" or "evaluate", and clear away what killed ones left half-written.

    Raises FolderInUse where another one works on the run, StorageError where the folder cannot be written. A process
    that gave no sign of life for so long that another took the run (suspended, cut off from its file server) ends at
    once with FolderInUse's code, and its children with it: what it would write is the other's by now.
    """
    paths = RunPaths(folder)

    def lost() -> None:
        say_error(f"{folder}: taken over by {holder_of(paths.lock(job))}, for this {job} had stopped; it ends here")
        sys.stderr.flush()
        os._exit(FolderInUse.exit_code)

    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(hold(paths.lock(job), wait_s=WAIT_S, on_lost=lost))
        except (OSError, StorageError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            reason = cause.strerror if isinstance(cause, OSError) else str(error)
            raise StorageError(f"{folder}: cannot be written ({reason}); {NEEDS[job]}") from error
        if lock is None:
            raise FolderInUse(
                f"{folder}: another {job} works on this run ({holder_of(paths.lock(job)) or 'it just began'}); "
                "wait until it has ended, then run the same command again"
            )
        for pattern in WRITES[job]:
            for partial in folder.glob(f"{pattern}{PARTIAL}"):
                with suppress(OSError):
                    partial.unlink()
        yield
