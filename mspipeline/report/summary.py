"""From tables to one comparison: the rows of the 2021 report under honest names, runs of several seeds put together."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mspipeline.report.comparison import Cell, Comparison, Group, Row, UnfinishedRun, absent, mean_over_runs
from mspipeline.report.definitions import (
    EPOCH_TIME,
    EVALUATION_TIME,
    HELD_OUT,
    HELD_OUT_DEFINITION,
    LESION_ROWS,
    NETWORK,
    PEAK_MEMORY,
    PHASE_WORDS,
    SCORE_DEFINITIONS,
    SUBSET_WORDS,
    TRAINING_SPEED,
    Spec,
    best_dice,
    hardware,
    report_dice,
)
from mspipeline.report.findings import headline, notes_on
from mspipeline.report.measures import Measure, aggregate, measure_runs
from mspipeline.report.sameness import NOT_CERTIFIED, sameness_row
from mspipeline.report.tables import Tables, load_tables

__all__ = ["NOT_CERTIFIED", "Comparison", "Tables", "case_scores", "load_tables", "summarise"]

SCORES = tuple(dict.fromkeys([*(name for name, *_ in SCORE_DEFINITIONS), *(name for name, *_ in LESION_ROWS)]))


def summarise(tables: Tables) -> Comparison:
    """The comparison of every group of runs in the tables.

    Only complete runs are averaged; the others are listed with their status. A value nobody measured is None.
    """
    groups, members = _groups(tables)
    measures = measure_runs(tables)
    scores = case_scores(tables, groups)
    rows = [*(_row(spec, groups, measures) for spec in NETWORK), *sameness_row(groups, members)]
    for key, name, definition in (EPOCH_TIME, EVALUATION_TIME):
        rows += _time_rows(key, name, definition, groups, measures)
    rows += [_row(spec, groups, measures) for spec in TRAINING_SPEED]
    rows += [_row(best_dice(subset), groups, measures) for subset in ("train", "validation")]
    rows += [*_held_out_rows(groups, scores), *_lesion_rows(groups, scores)]
    for subset in ("train", "validation"):
        for form, words in (("hard", "thresholded"), ("soft", "soft")):
            rows.append(_row(report_dice(subset, form, words), groups, measures))
    for phase in PHASE_WORDS:
        specs = hardware(phase)
        rows += [_row(spec, groups, measures) for spec in ([*specs, PEAK_MEMORY] if phase == "train" else specs)]
    unfinished = tuple(
        UnfinishedRun(run["run_id"], run["status"] or "unknown", run["seed"], group.label, run["problem"] or "")
        for group, runs in zip(groups, members, strict=True)
        for run in runs
        if run["status"] != "complete"
    )
    return Comparison(
        headline=headline(groups, rows, unfinished),
        groups=groups,
        table=tuple(rows),
        unfinished=tuple(sorted(unfinished, key=lambda run: run.run_id)),
        notes=tuple(notes_on(groups, members)),
    )


def case_scores(tables: Tables, groups: Sequence[Group]) -> pa.Table:
    """Scores of each case in each group, averaged over the group's complete runs, on the scan's own grid.

    Columns: group (index into `groups`), subset, case, `SCORES` (null where undefined in every run), runs, dice_defined
    (runs in which Dice is defined). Sorted by subset (test first), case, group.
    """
    owners = {run: index for index, group in enumerate(groups) for run in group.runs}
    rows = tables.cases
    position = pc.index_in(rows["run_id"], value_set=pa.array(list(owners), pa.string()))
    rows = rows.append_column("group", pa.array(list(owners.values()), pa.int32()).take(position))
    rows = rows.filter(pc.and_(pc.is_valid(position), pc.equal(rows["grid"], "scan")))
    parts = [(name, "mean") for name in SCORES]
    means = aggregate(rows, ["group", "subset", "case"], [*parts, ("dice", "count"), ("run_id", "count")])
    names = {f"{name}_mean": name for name in SCORES} | {"dice_count": "dice_defined", "run_id_count": "runs"}
    means = means.rename_columns([names.get(name, name) for name in means.column_names])
    means = means.append_column("order", pc.index_in(means["subset"], value_set=pa.array(list(HELD_OUT))))
    keys = [("order", "ascending"), ("case", "ascending"), ("group", "ascending")]
    return means.sort_by(keys).drop_columns(["order"])


def describe_arguments(text: str | None) -> str:
    """A builder's arguments, stored as JSON, as `name=value, ...`."""
    try:
        arguments = json.loads(text or "{}")
    except json.JSONDecodeError:
        return text or ""
    if not isinstance(arguments, dict):
        return str(arguments)
    return ", ".join(f"{key}={value}" for key, value in sorted(arguments.items()))


def _groups(tables: Tables) -> tuple[tuple[Group, ...], list[list[dict[str, Any]]]]:
    """The groups, sorted by label, and each one's runs as rows of the runs table."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in tables.runs.to_pylist():
        arguments = describe_arguments(run["model_arguments"])
        parts = (run["model"], arguments, run["backend"], run["device"], run["dataset_hash"], run["recipe_hash"])
        found.setdefault(tuple(part or "" for part in parts), []).append(run)
    several_data = len({key[4:] for key in found}) > 1
    groups = []
    for index, key in enumerate(sorted(found)):
        model, arguments, backend, device, dataset, recipe = key
        complete = [run for run in found[key] if run["status"] == "complete"]
        network = f"{model}({arguments})" if arguments else model
        data = f", data {dataset[:6]}/{recipe[:6]}" if several_data else ""
        groups.append(
            Group(
                letter=_letter(index),
                label=", ".join(filter(None, (network, backend, device.upper()))) + data,
                model=model,
                arguments=arguments,
                backend=backend,
                backend_versions=tuple(sorted({run["backend_version"] or "unknown" for run in found[key]})),
                device=device,
                runs=tuple(run["run_id"] for run in complete),
                seeds=tuple(sorted({run["seed"] for run in complete if run["seed"] is not None})),
                started=len(found[key]),
            )
        )
    return tuple(groups), [found[key] for key in sorted(found)]


def _letter(index: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    head, tail = divmod(index, 26)
    return (_letter(head - 1) if head else "") + chr(ord("A") + tail)


def _cell(group: Group, measure: Measure, kind: str) -> Cell:
    if not group.runs:
        return absent("no complete run")
    return mean_over_runs([measure[run] for run in group.runs if run in measure], kind=kind, runs=len(group.runs))


def _row(spec: Spec, groups: Sequence[Group], measures: dict[str, Measure]) -> Row:
    cells = tuple(_cell(group, measures[spec.key], spec.kind) for group in groups)
    return Row(spec.key, spec.section, spec.name, spec.unit, spec.definition, cells)


def _time_rows(
    key: str, name: str, definition: str, groups: Sequence[Group], measures: dict[str, Measure]
) -> list[Row]:
    """One row per device: times on a CPU and on a GPU never stand in one row."""
    rows = []
    for device in sorted({group.device for group in groups if group.device}):
        cells = tuple(
            _cell(group, measures[key], "seconds")
            if group.device == device
            else absent(f"ran on {group.device.upper()}" if group.device else "no complete run")
            for group in groups
        )
        rows.append(Row(f"{key}.{device}", "Time", f"{name} ({device.upper()})", "s", definition, cells))
    return rows


def _held_out_rows(groups: Sequence[Group], scores: pa.Table) -> list[Row]:
    """Dice of whole cases on the scan's grid, one row per subset; test always has one."""
    present = set(scores["subset"].to_pylist())
    rows = []
    for subset, (name, use) in HELD_OUT.items():
        if subset != "test" and subset not in present:
            continue
        of_subset = scores.filter(pc.equal(scores["subset"], subset))
        cells = tuple(_median_cell(group, of_subset, index, "dice", ".3f") for index, group in enumerate(groups))
        rows.append(Row(f"cases.{subset}.dice", "Dice", name, "1", f"{HELD_OUT_DEFINITION} {use}", cells))
    return rows


def _lesion_rows(groups: Sequence[Group], scores: pa.Table) -> list[Row]:
    """What lesions and their surfaces say of the cases that are most held out of those scored."""
    subset = next((each for each in HELD_OUT if each in set(scores["subset"].to_pylist())), None)
    if subset is None:
        return []
    meanings = {name: words for name, _, _, words in SCORE_DEFINITIONS}
    of_subset = scores.filter(pc.equal(scores["subset"], subset))
    rows = []
    for column, words, unit, pattern in LESION_ROWS:
        cells = tuple(_median_cell(group, of_subset, index, column, pattern) for index, group in enumerate(groups))
        definition = (
            f"{meanings.get(column, 'Share of both surfaces that lies within 1 mm of the other.')} A case's value is "
            "its mean over runs; median and range over the cases where it is defined."
        )
        key = f"cases.{subset}.{column}"
        rows.append(Row(key, "Lesions and surfaces", f"{SUBSET_WORDS[subset]}: {words}", unit, definition, cells))
    return rows


def _median_cell(group: Group, scores: pa.Table, index: int, column: str, pattern: str) -> Cell:
    """The median over cases of one score of a group."""
    if not group.runs:
        return absent("no complete run")
    rows = scores.filter(pc.equal(scores["group"], index))
    if not rows.num_rows:
        return absent()
    ordered = sorted(rows[column].drop_null().to_pylist())
    undefined = rows.num_rows - len(ordered)
    if not ordered:
        return absent(f"undefined in all {undefined} cases")
    fewest, most = pc.min(rows["runs"]).as_py(), pc.max(rows["runs"]).as_py()
    runs = f"{most} run{'s' if most > 1 else ''}" if fewest == most else f"{fewest} to {most} runs"
    cases = f"n = {len(ordered)} case{'s' if len(ordered) > 1 else ''}"
    aside = f"; {undefined} undefined" if undefined else ""
    middle, low, high = statistics.median(ordered), ordered[0], ordered[-1]
    detail = f"({low:{pattern}} to {high:{pattern}}; {cases}, {runs}{aside})"
    return Cell(middle, f"{middle:{pattern}}", detail, low=low, high=high, n=len(ordered))
