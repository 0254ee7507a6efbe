"""From tables to one comparison: the rows of the 2021 report under honest names, runs of several seeds put together."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from mspipeline.report.case_rows import case_rows, scored_rows
from mspipeline.report.collapse import collapsed_runs, left_out
from mspipeline.report.comparison import Cell, Comparison, Group, Row, UnfinishedRun, absent, mean_over_runs
from mspipeline.report.definitions import (
    EPOCH_TIME,
    EVALUATION_TIME,
    NETWORK,
    PEAK_MEMORY,
    PHASE_WORDS,
    TRAINING_SPEED,
    Spec,
    best_dice,
    hardware,
    report_dice,
)
from mspipeline.report.findings import checkpoint_notes, headline, notes_on, ranking_notes
from mspipeline.report.measures import Measure, measure_runs
from mspipeline.report.sameness import NOT_CERTIFIED, sameness_row
from mspipeline.report.tables import Tables, load_tables

__all__ = ["NOT_CERTIFIED", "Comparison", "Tables", "load_tables", "summarise"]


def summarise(tables: Tables) -> Comparison:
    """The comparison of every group of runs in the tables.

    Only complete runs are averaged; the others are listed with their status. Scores leave out runs whose scored
    network collapsed, and name them. A value nobody measured is None.
    """
    groups, members = _groups(tables)
    measures = measure_runs(tables)
    scores = scored_rows(tables, groups)
    collapsed = collapsed_runs(groups, members, scores)
    without = left_out(collapsed)
    rows = [*(_row(spec, groups, measures) for spec in NETWORK), *sameness_row(groups, members)]
    for key, name, definition in (EPOCH_TIME, EVALUATION_TIME):
        rows += _time_rows(key, name, definition, groups, measures)
    rows += [_row(spec, groups, measures) for spec in TRAINING_SPEED]
    rows += [_row(best_dice(subset), groups, measures, without) for subset in ("train", "validation")]
    rows += case_rows(groups, scores, without)
    for subset in ("train", "validation"):
        for form, words in (("hard", "thresholded"), ("soft", "soft")):
            rows.append(_row(report_dice(subset, form, words), groups, measures, without))
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
        headline=headline(groups, rows, unfinished, len(without)),
        collapsed=collapsed,
        groups=groups,
        table=tuple(rows),
        unfinished=tuple(sorted(unfinished, key=lambda run: run.run_id)),
        notes=(
            *ranking_notes(groups, members, rows, scores, without),
            *checkpoint_notes(groups, scores),
            *notes_on(groups, members),
        ),
    )


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


def _cell(group: Group, measure: Measure, kind: str, left_out: Collection[str] = ()) -> Cell:
    if not group.runs:
        return absent("no complete run")
    if not (runs := [run for run in group.runs if run not in left_out]):
        return absent("every run collapsed")
    return mean_over_runs([measure[run] for run in runs if run in measure], kind=kind, runs=len(group.runs))


def _row(spec: Spec, groups: Sequence[Group], measures: dict[str, Measure], left_out: Collection[str] = ()) -> Row:
    cells = tuple(_cell(group, measures[spec.key], spec.kind, left_out) for group in groups)
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
