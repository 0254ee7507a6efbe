"""The comparison as plain data: groups of runs as columns, measures as rows, and what must be said about them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Cell:
    """One value of one group.

    value: in the row's unit; None where nobody measured it. sd: sample standard deviation over runs, None for one run.
    low, high: range over cases, or of what the row counts. run_low, run_high: range over runs, of scores of cases.
    cases: with a defined score. n: defined values behind the value: of runs or, for scores, of each case in each run.
    main, detail: the same in words.
    """

    value: float | None
    main: str
    detail: str = ""
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    run_low: float | None = None
    run_high: float | None = None
    cases: int = 0
    n: int = 0

    @property
    def text(self) -> str:
        """Value and detail in one line."""
        detail = f"({self.detail})" if "; " in self.detail else self.detail
        return f"{self.main} {detail}".strip()


@dataclass(frozen=True)
class Row:
    """One measure over all groups. definition: exactly what was counted."""

    key: str
    section: str
    name: str
    unit: str
    definition: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Runs of one network, with its arguments, on one backend and device, from one dataset by one recipe.

    letter: its short name in figures. runs, seeds: of its complete runs; `started` counts the others too.
    """

    letter: str
    label: str
    model: str
    arguments: str
    backend: str
    backend_versions: tuple[str, ...]
    device: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    started: int


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that is in no average, and why. problem: what kept it from beginning, else empty."""

    run_id: str
    status: str
    seed: int | None
    group: str
    problem: str = ""


@dataclass(frozen=True)
class CollapsedRun:
    """A complete run whose network predicts nothing, or calls every voxel lesion.

    to: "nothing" or "everything". epoch: the first one of the collapse. Both are None where nobody knows. scored:
    whether the scores come from the collapsed network; False where the scored checkpoint is from an epoch before.
    words: the same for a reader.
    """

    run_id: str
    seed: int | None
    group: str
    to: str | None
    epoch: int | None
    scored: bool
    words: str


@dataclass(frozen=True)
class Comparison:
    """Everything the table says. `table[i].cells[j]` belongs to `groups[j]`."""

    headline: str
    groups: tuple[Group, ...]
    table: tuple[Row, ...]
    unfinished: tuple[UnfinishedRun, ...]
    collapsed: tuple[CollapsedRun, ...]
    notes: tuple[str, ...]

    def row(self, key: str) -> Row:
        """The row of a measure. Raises KeyError."""
        for row in self.table:
            if row.key == key:
                return row
        raise KeyError(key)

    def rows(self) -> list[list[str]]:
        """The table as text, its header first."""
        header = ["", *(f"{group.letter}: {group.label}" for group in self.groups)]
        return [header, *([row.name, *(cell.text for cell in row.cells)] for row in self.table)]

    def to_json(self) -> dict[str, Any]:
        """Plain data; unknown values are null."""
        return asdict(self)


def plural(count: int, word: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def absent(why: str = NOT_MEASURED) -> Cell:
    """A cell without a value."""
    return Cell(None, why)


def mean_over_runs(values: Sequence[float], *, kind: str, runs: int) -> Cell:
    """Mean and sample standard deviation over runs. kind: "count", "seconds" or the format of a number.

    runs: complete runs of the group; said where some of them have no value.
    """
    if not values:
        return absent()
    n = len(values)
    count = f"n = {n}" if n == runs else f"n = {n} of {runs}"
    if kind == "count":
        low, high = min(values), max(values)
        main = f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
        return Cell(low if low == high else None, main, "" if n == runs else count, low=low, high=high, n=n)
    mean = statistics.fmean(values)
    factor, unit, pattern = 1.0, "", kind
    if kind == "seconds":
        factor, unit = time_unit(mean)
        pattern = f".{_decimals(mean / factor)}f"
    unit = f" {unit}" if unit else ""
    main = f"{mean / factor:{pattern}}{unit}"
    if n == 1:
        return Cell(mean, main, count, n=n)
    sd = statistics.stdev(values)
    return Cell(mean, main, f"± {sd / factor:{pattern}}{unit}, {count}", sd=sd, n=n)


def time_unit(seconds: float) -> tuple[float, str]:
    """The unit in which a duration reads best, and its seconds."""
    if seconds < 120:
        return 1.0, "s"
    return (60.0, "min") if seconds < 7200 else (3600.0, "h")


def _decimals(value: float) -> int:
    """Decimals that show about three digits."""
    return 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
