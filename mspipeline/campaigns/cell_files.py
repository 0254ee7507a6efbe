"""What the files of a cell say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mspipeline.campaigns.attempt import AttemptRecord, read_attempt
from mspipeline.campaigns.cells import Cell
from mspipeline.campaigns.ending import Ending, read_ending
from mspipeline.campaigns.submission import Submission, read_submission
from mspipeline.errors import DataError
from mspipeline.files import read_json
from mspipeline.runs import RunPaths, read_rows
from mspipeline.tables.schema import EPOCHS

_COLUMNS = ["epoch", "subset", "seconds", "images_per_second", "dice"]


@dataclass(frozen=True, slots=True)
class CellFiles:
    """What the files of a cell say. status, problem: of `run.json`. evaluated: whether there are scores of cases.

    collapse: how the training has collapsed, in words; empty where it has not.
    ending: what the campaign found out about the end of this attempt.
    rows: those of `epochs.arrow`, the columns that a CellState is made of.
    """

    submission: Submission | None
    attempt: AttemptRecord | None
    status: str | None
    problem: str | None
    evaluated: bool
    ending: Ending | None
    rows: tuple[dict[str, Any], ...]
    collapse: str = ""

    @property
    def trained(self) -> bool:
        return self.status == "complete"

    @property
    def done(self) -> bool:
        """Whether these files alone make the cell `done`, whatever the queue says."""
        return self.trained and self.evaluated and (self.attempt is None or self.attempt.exit_code is not None)


def read_files(cell: Cell) -> CellFiles:
    """What the files of a cell say now. Raises RunFolderError where one cannot be read."""
    paths = RunPaths(cell.train.run_folder)
    record = _record(paths)
    submission, attempt = read_submission(paths.root), read_attempt(paths.root)
    return CellFiles(
        submission=submission,
        attempt=attempt,
        status=record.get("status"),
        problem=record.get("problem"),
        evaluated=paths.cases.exists(),
        ending=read_ending(paths.root, submission, attempt),
        rows=tuple(read_rows(paths.epochs, EPOCHS).select(_COLUMNS).to_pylist()),
        collapse=(
            f"collapsed: predicts {record.get('collapsed_to')} since epoch {record.get('collapsed_epoch')}"
            if record.get("collapsed")
            else ""
        ),
    )


def _record(paths: RunPaths) -> dict[str, Any]:
    """What `run.json` says; nothing where there is none that can be read."""
    try:
        document = read_json(paths.record, what="run record", remedy="resume the campaign")
    except DataError:
        return {}
    return document if isinstance(document, dict) else {}
