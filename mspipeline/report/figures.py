"""The figures of a page: which groups are drawn, with captions and what each shows in words."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from mspipeline.report import plots
from mspipeline.report.case_rows import labels_of, of_label
from mspipeline.report.collapse import left_out
from mspipeline.report.comparison import Comparison
from mspipeline.report.definitions import HELD_OUT
from mspipeline.report.findings import ranking
from mspipeline.report.tables import Tables

HARDWARE_FIGURES = 4

_SUBSET_WORDS = {"test": "held-out test cases", "validation": "validation cases", "train": "training cases"}


@dataclass(frozen=True)
class Figure:
    """One drawing with its caption and what it shows in words, for readers who do not see it."""

    svg: str
    caption: str
    label: str


def drawn(comparison: Comparison) -> list[int]:
    """Which groups are drawn: the best with complete runs, as many as there are colours, in the comparison's order."""
    complete = [index for index in ranking(comparison.groups, comparison.table) if comparison.groups[index].runs]
    return sorted(complete[: len(plots.COLOURS)])


def _drawing_note(comparison: Comparison) -> str:
    """What the figures leave out."""
    groups = [comparison.groups[index] for index in drawn(comparison)]
    notes = []
    if hidden := sum(bool(group.runs) for group in comparison.groups) - len(groups):
        notes.append(f"{hidden} more groups are not drawn.")
    if any(len(group.runs) > plots.LINES for group in groups):
        notes.append(f"At most {plots.LINES} runs per group are drawn.")
    return " ".join(notes)


def colours(comparison: Comparison) -> dict[int, str]:
    """The colour of each group that is drawn."""
    return {index: plots.COLOURS[place] for place, index in enumerate(drawn(comparison))}


def curves(tables: Tables, comparison: Comparison) -> list[Figure]:
    """Loss and Dice per epoch."""
    groups = [comparison.groups[index] for index in drawn(comparison)]
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


def dots(scores: pa.Table, comparison: Comparison) -> list[Figure]:
    """A dot plot per label and subset that has scored cases. scores: as made by `case_rows.case_scores`."""
    shown = drawn(comparison)
    groups = [comparison.groups[index] for index in shown]
    place = pc.index_in(scores["group"], value_set=pa.array(shown, pa.int32()))
    scores = scores.set_column(scores.column_names.index("group"), "group", place).filter(pc.is_valid(place))
    without = " that did not collapse" if left_out(comparison.collapsed) else ""
    figures: list[Figure] = []
    labels = labels_of(scores)
    for subset in HELD_OUT:
        for place, label in enumerate(labels):
            own = of_label(scores, label) if len(labels) > 1 else scores
            count = len(set(own.filter(pc.equal(own["subset"], subset))["case"].to_pylist()))
            if count:
                what = f"{label} in the " if len(labels) > 1 else "the "
                words = f"Dice of {what}{_SUBSET_WORDS[subset]}, each the mean over a group's runs{without}."
                caption = f"{words} {_drawing_note(comparison)}".strip()
                svg = plots.case_dots(own, groups, subset, name=f"cases-{subset}{f'-{place}' if place else ''}")
                drawn_of = f"{label} in " if len(labels) > 1 else ""
                alt = f"Dot plot of the Dice of {drawn_of}{count} {_SUBSET_WORDS[subset]}"
                figures.append(Figure(svg, caption, alt))
    return figures


def hardware(tables: Tables, comparison: Comparison) -> list[Figure]:
    """What the hardware did in one run of each group."""
    sampled = set(pc.unique(tables.samples["run_id"]).to_pylist())
    figures: list[Figure] = []
    for index in drawn(comparison):
        group = comparison.groups[index]
        run = next((run for run in group.runs if run in sampled), None)
        if run is None or len(figures) == HARDWARE_FIGURES:
            continue
        svg = plots.hardware_curves(tables, group, run)
        caption = f"{group.letter}: {group.label}, run {run}. Shaded by phase; waits between jobs left out."
        figures.append(Figure(svg, caption, f"Line charts of CPU, memory and GPU over the running time of {run}"))
    return figures
