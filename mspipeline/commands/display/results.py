"""Collected tables, and the comparison that a report draws."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from mspipeline.commands.display.table import print_json, table
from mspipeline.console import stdout
from mspipeline.report.comparison import NOT_MEASURED

if TYPE_CHECKING:
    from mspipeline.report.comparison import Comparison


def print_tables(tables: Mapping[str, pa.Table], folder: Path, *, as_json: bool) -> None:
    """How many rows each collected table has."""
    counts = {name: table.num_rows for name, table in tables.items()}
    if as_json:
        print_json(counts)
    else:
        stdout.print(f"{folder}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


def print_comparison(comparison: Comparison, page: Path, *, as_json: bool) -> None:
    """The report's table, and where the page is."""
    if as_json:
        print_json({"page": str(page), **comparison.to_json()})
        return
    header, *rows = comparison.rows()
    shown = table(header, words=1)
    section, unmeasured = "", 0
    for row, measure in zip(rows, comparison.table, strict=True):
        if all(cell.value is None and cell.main == NOT_MEASURED for cell in measure.cells):
            unmeasured += 1
            continue
        if measure.section != section:
            shown.add_section()
            section = measure.section
        shown.add_row(*row)
    for collapsed in comparison.collapsed:
        stdout.print(f"collapsed: {collapsed.run_id} ({collapsed.group}) {collapsed.words}")
    stdout.print(comparison.headline)
    stdout.print(shown)
    if unmeasured:
        stdout.print(f"{unmeasured} rows that nobody measured here are on the page alone")
    for note in comparison.notes:
        stdout.print(f"note: {note}")
    for run in comparison.unfinished:
        stdout.print(f"left out: {run.run_id} ({run.status}{': ' if run.problem else ''}{run.problem})")
    stdout.print(f"page: {page.resolve().as_uri()}")
