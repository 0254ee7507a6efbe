"""The report page: one HTML file with its styles and figures inside, no script, nothing fetched from anywhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.compute as pc

import mspipeline
from mspipeline.files import sha256_file, write_bytes
from mspipeline.report import plots
from mspipeline.report.comparison import Comparison
from mspipeline.report.definitions import HELD_OUT, SCORE_DEFINITIONS
from mspipeline.report.findings import ranking
from mspipeline.report.summary import case_scores, describe_arguments, load_tables, summarise
from mspipeline.report.tables import Tables, table_path

COLUMNS = 12
HARDWARE_FIGURES = 4
CASE_ROWS = 240
RUN_ROWS = 200

_HASHES = ("graph_hash", "dataset_hash", "split_hash", "recipe_hash", "config_hash", "commit", "image_digest")
_SUBSET_WORDS = {"test": "held-out test cases", "validation": "validation cases", "train": "training cases"}


@dataclass(frozen=True)
class Figure:
    """One drawing with its caption and what it shows in words, for readers who do not see it."""

    svg: str
    caption: str
    label: str


def write_page(tables_folder: Path, output: Path, title: str) -> None:
    """Write the report on the tables in `tables_folder` to `output`, whole or not at all.

    Equal tables give equal bytes. Long tables and many groups are cut, and the page says what it left out.
    Raises TableError where a table is missing or unreadable, StorageError where `output` cannot be written.
    """
    tables = load_tables(tables_folder)
    comparison = summarise(tables)
    shown = _shown(comparison)
    sections = [
        {"name": name, "rows": list(rows)} for name, rows in groupby(comparison.table, key=lambda row: row.section)
    ]
    cases, cases_left_out = _cases(tables, comparison)
    runs, runs_left_out = _runs(tables)
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
        colours={index: plots.COLOURS[place] for place, index in enumerate(_drawn(comparison))},
        sections=sections,
        curves=_curves(tables, comparison),
        dots=_dots(tables, comparison),
        hardware=_hardware(tables, comparison),
        cases=cases,
        cases_left_out=cases_left_out,
        scores=SCORE_DEFINITIONS,
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


def _drawn(comparison: Comparison) -> list[int]:
    """Which groups are drawn: the best with complete runs, as many as there are colours, in the comparison's order."""
    complete = [index for index in ranking(comparison.groups, comparison.table) if comparison.groups[index].runs]
    return sorted(complete[: len(plots.COLOURS)])


def _drawing_note(comparison: Comparison) -> str:
    """What the figures leave out."""
    drawn = [comparison.groups[index] for index in _drawn(comparison)]
    notes = []
    if hidden := sum(bool(group.runs) for group in comparison.groups) - len(drawn):
        notes.append(f"{hidden} more groups are not drawn.")
    if any(len(group.runs) > plots.LINES for group in drawn):
        notes.append(f"At most {plots.LINES} runs per group are drawn.")
    return " ".join(notes)


def _curves(tables: Tables, comparison: Comparison) -> list[Figure]:
    groups = [comparison.groups[index] for index in _drawn(comparison)]
    if not groups or not tables.epochs.num_rows:
        return []
    letters = ", ".join(group.letter for group in groups)
    figures: list[Figure] = []
    for column, label, words in (
        ("loss", "loss", "Loss per epoch, one line per run."),
        (
            "dice",
            "Dice on the training grid",
            "Dice per epoch: per-case voxel Dice on the training grid, one line per run.",
        ),
    ):
        svg = plots.epoch_curves(tables, groups, column=column, label=label)
        caption = f"{words} {_drawing_note(comparison)}".strip()
        figures.append(Figure(svg, caption, f"Line chart of {label} against epoch for groups {letters}"))
    return figures


def _dots(tables: Tables, comparison: Comparison) -> list[Figure]:
    """A dot plot per subset that has scored cases."""
    drawn = _drawn(comparison)
    groups = [comparison.groups[index] for index in drawn]
    scores = case_scores(tables, groups)
    figures: list[Figure] = []
    for subset in HELD_OUT:
        count = len(set(scores.filter(pc.equal(scores["subset"], subset))["case"].to_pylist()))
        if count:
            words = f"Dice of the {_SUBSET_WORDS[subset]}, each the mean over a group's runs."
            caption = f"{words} {_drawing_note(comparison)}".strip()
            svg = plots.case_dots(scores, groups, subset)
            figures.append(Figure(svg, caption, f"Dot plot of the Dice of {count} {_SUBSET_WORDS[subset]}"))
    return figures


def _hardware(tables: Tables, comparison: Comparison) -> list[Figure]:
    """What the hardware did in one run of each group."""
    sampled = set(pc.unique(tables.samples["run_id"]).to_pylist())
    figures: list[Figure] = []
    for index in _drawn(comparison):
        group = comparison.groups[index]
        run = next((run for run in group.runs if run in sampled), None)
        if run is None or len(figures) == HARDWARE_FIGURES:
            continue
        svg = plots.hardware_curves(tables, group, run)
        caption = f"{group.letter}: {group.label}, run {run}. Shaded by phase; waits between jobs left out."
        figures.append(Figure(svg, caption, f"Line charts of CPU, memory and GPU over the running time of {run}"))
    return figures


def _cases(tables: Tables, comparison: Comparison) -> tuple[list[dict[str, Any]], int]:
    """Rows of the case table, and how many were left out."""
    scores = case_scores(tables, comparison.groups)
    rows = scores.slice(0, CASE_ROWS).to_pylist()
    for row in rows:
        row["letter"] = comparison.groups[row["group"]].letter
    return rows, max(0, scores.num_rows - CASE_ROWS)


def _runs(tables: Tables) -> tuple[list[dict[str, Any]], int]:
    """Rows of the runs table, unfinished ones first, and how many were left out."""
    rows = sorted(tables.runs.to_pylist(), key=lambda run: (run["status"] == "complete", run["run_id"]))
    for row in rows[:RUN_ROWS]:
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
