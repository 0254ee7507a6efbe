"""What the programs of one cell wrote, attempt after attempt, read from where it was read to before.

An attempt that SLURM put back into the queue goes on in the log of the one before; another submission has another log.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mspipeline.campaigns.attempt import AttemptRecord, read_attempts
from mspipeline.campaigns.cells import Cell
from mspipeline.campaigns.submission import begun, read_submission
from mspipeline.errors import UsageError

SUBMITIT = "submitit "
"""How the lines begin that submitit puts between those of a cell's own programs."""
SUBMITIT_INFO = "submitit INFO"


@dataclass(frozen=True)
class Part:
    """The bytes of a log that one attempt wrote: from `start` to `end`, None for the end of the file.

    attempt: its number; None of a job that ended before it began, or has not begun yet. title: attempt, node, job, log.
    """

    attempt: int | None
    log: Path
    start: int
    end: int | None
    title: str


def parts(cell_folder: Path) -> list[Part]:
    """What there is to read of a cell, in the order it was written. Raises RunFolderError where a record is broken."""
    attempts = read_attempts(cell_folder)
    submission = read_submission(cell_folder)
    found = []
    for record, following in zip(attempts, [*attempts, None][1:], strict=True):
        goes_on = following is not None and following.log == record.log
        found.append(
            Part(
                record.attempt,
                record.log,
                record.log_start,
                following.log_start if following is not None and goes_on else None,
                _title(record),
            )
        )
    if submission is not None and not begun(submission, attempts[-1] if attempts else None):
        title = f"job {submission.job_id}, which has not begun: {submission.log}"
        found.append(Part(None, submission.log, 0, None, title))
    return found


class LogReader:
    """Reads what is new in a cell's logs. attempt: that one alone; raises UsageError where there is none."""

    def __init__(self, cell: Cell, attempt: int | None = None) -> None:
        self._folder = cell.train.run_folder
        self._attempt = attempt
        self._read_to: dict[Path, int] = {}
        if attempt is not None:
            known = [part.attempt for part in parts(self._folder) if part.attempt is not None]
            if attempt not in known:
                there = f"its attempts are {', '.join(map(str, known))}" if known else "it has none yet"
                raise UsageError(f"{cell.id}: no attempt {attempt}; {there}")

    def new(self, *, last: bool) -> Iterator[tuple[Part, str]]:
        """Every line that was not read before, without its end, and whose it is.

        last: nothing more is to come, so a line without an end counts too, and what a job wrote that did not begin.
        """
        for part in self._chosen():
            if last or part.attempt is not None:
                yield from ((part, line) for line in self._lines(part, last=last))

    def missing(self) -> list[Part]:
        """What cannot be read: its log is not there, or not yet."""
        return [part for part in self._chosen() if not part.log.exists()]

    def _chosen(self) -> list[Part]:
        return [part for part in parts(self._folder) if self._attempt is None or part.attempt == self._attempt]

    def _lines(self, part: Part, *, last: bool) -> Iterator[str]:
        try:
            stream = part.log.open("rb")
        except OSError:
            return
        with stream:
            at = stream.seek(max(part.start, self._read_to.get(part.log, 0)))
            while (part.end is None or at < part.end) and (line := stream.readline()):
                if not line.endswith(b"\n") and not last and part.end is None:
                    break
                at += len(line)
                self._read_to[part.log] = at
                text = line.decode(errors="replace").rstrip("\r\n")
                if not text.startswith(SUBMITIT if part.attempt is not None else SUBMITIT_INFO):
                    yield text


def find_cell(cells: Sequence[Cell], word: str, campaign_folder: Path) -> Cell:
    """The cell with this name, or the only one whose name begins with `word`, or else has it somewhere.

    Raises UsageError with the nearest names where there is none, with the names where there are several.
    """
    for matches in (
        [cell for cell in cells if cell.id == word],
        [cell for cell in cells if cell.id.startswith(word)],
        [cell for cell in cells if word in cell.id],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            more = f" and {len(matches) - 3} more" if len(matches) > 3 else ""
            names = ", ".join(cell.id for cell in matches[:3])
            raise UsageError(f"{word!r} is {len(matches)} cells: {names}{more}; write more of the name")
    close = difflib.get_close_matches(word, [cell.id for cell in cells], n=3, cutoff=0.3)
    nearest = f"did you mean {' or '.join(close)}? " if close else ""
    raise UsageError(
        f"no cell {word!r} in {campaign_folder}; {nearest}`mspipeline status` shows the {len(cells)} cells"
    )


def _title(record: AttemptRecord) -> str:
    how = "" if record.exit_code is None else f", ended with code {record.exit_code}"
    where, begun_at = record.node or record.host, f"{record.started_utc[:19]} UTC"
    return f"attempt {record.attempt} on {where}, job {record.job_id}, begun {begun_at}{how}: {record.log}"
