"""The report page: one HTML file with its styles and figures inside, no script, nothing fetched from anywhere."""

from __future__ import annotations

import json
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa

import mspipeline
from mspipeline.files import sha256_file, write_bytes
from mspipeline.report.case_rows import case_scores, labels_of, scored_rows
from mspipeline.report.collapse import left_out
from mspipeline.report.comparison import Comparison
from mspipeline.report.drawing import matplotlib_apart
from mspipeline.report.findings import ranking
from mspipeline.report.score_columns import score_columns
from mspipeline.report.summary import describe_arguments, load_tables, summarise
from mspipeline.report.tables import Tables, table_path

COLUMNS = 12
CASE_ROWS = 240
RUN_ROWS = 200

_HASHES = ("graph_hash", "dataset_hash", "split_hash", "recipe_hash", "config_hash", "commit", "image_digest")
COLLAPSED = 12


def write_page(tables_folder: Path, output: Path, title: str) -> None:
    """Write the report on the tables in `tables_folder` to `output`, whole or not at all.

    Equal tables give equal bytes. Long tables and many groups are cut, and the page says what it left out.
    Raises TableError where a table is missing or unreadable, StorageError where `output` cannot be written.
    """
    tables = load_tables(tables_folder)
    comparison = summarise(tables)
    with matplotlib_apart(output.parent):
        from mspipeline.report import figures
    scores = case_scores(scored_rows(tables, comparison.groups), left_out(comparison.collapsed))
    shown = _shown(comparison)
    sections = [
        {"name": name, "rows": list(rows)} for name, rows in groupby(comparison.table, key=lambda row: row.section)
    ]
    cases, cases_left_out = _cases(scores, comparison)
    runs, runs_left_out = _runs(tables, comparison)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html").render(
        title=title,
        style=(Path(__file__).parent / "page.css").read_text(encoding="utf-8"),
        comparison=comparison,
        columns=[(index, comparison.groups[index]) for index in shown],
        groups_left_out=len(comparison.groups) - len(shown),
        collapsed=comparison.collapsed[:COLLAPSED],
        collapsed_by_group=Counter(run.group for run in comparison.collapsed),
        numbers={group.letter: index for index, group in enumerate(comparison.groups)},
        colours=figures.colours(comparison),
        sections=sections,
        curves=figures.curves(tables, comparison),
        dots=figures.dots(scores, comparison),
        hardware=figures.hardware(tables, comparison),
        cases=cases,
        cases_left_out=cases_left_out,
        labelled=len(labels_of(scores)) > 1,
        scores=[column for column in score_columns(tables.cases.schema) if column.heading],
        runs=runs,
        runs_left_out=runs_left_out,
        hashes=_HASHES,
        checksums=[
            (name, sha256_file(table_path(tables_folder, name))) for name in ("runs", "epochs", "cases", "samples")
        ],
        version=mspipeline.__version__,
    )
    write_bytes(output, text.encode())


def _shown(comparison: Comparison) -> list[int]:
    """Which groups have a column: the `COLUMNS` best, in the comparison's order."""
    return sorted(ranking(comparison.groups, comparison.table)[:COLUMNS])


def _cases(scores: pa.Table, comparison: Comparison) -> tuple[list[dict[str, Any]], int]:
    """Rows of the case table, and how many were left out."""
    rows = scores.slice(0, CASE_ROWS).to_pylist()
    for row in rows:
        row["letter"] = comparison.groups[row["group"]].letter
    return rows, max(0, scores.num_rows - CASE_ROWS)


def _runs(tables: Tables, comparison: Comparison) -> tuple[list[dict[str, Any]], int]:
    """Rows of the runs table, unfinished ones first, and how many were left out."""
    rows = sorted(tables.runs.to_pylist(), key=lambda run: (run["status"] == "complete", run["run_id"]))
    collapsed = {run.run_id: run.words for run in comparison.collapsed}
    for row in rows[:RUN_ROWS]:
        row["collapse"] = collapsed.get(row["run_id"], "")
        arguments = describe_arguments(row["model_arguments"])
        row["network"] = f"{row['model']}({arguments})" if arguments else row["model"]
        row["packages"] = _packages(row["versions"])
    return rows[:RUN_ROWS], max(0, len(rows) - RUN_ROWS)


def _packages(text: str | None) -> str:
    """The versions of packages, stored as JSON, in one line."""
    try:
        versions = json.loads(text or "{}")
    except json.JSONDecodeError:
        return text or ""
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) if versions else ""
