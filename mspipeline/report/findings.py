"""What the comparison says in words: its headline, and what must be known before columns are compared."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mspipeline.report.case_rows import median_runs
from mspipeline.report.comparison import Cell, Group, Row, UnfinishedRun, plural, time_unit
from mspipeline.report.sameness import sameness_notes

_RANKED_BY = {
    "cases.test.dice": ("median Dice", "on {n} held-out test case{s}"),
    "cases.validation.dice": ("median Dice", "on {n} validation case{s}, which chose the checkpoint"),
    "validation.best_dice": ("mean best Dice", "in validation during training (no case was scored on its own grid)"),
}

_LISTED = 12
_NAMED = 4


def headline(groups: Sequence[Group], rows: Sequence[Row], unfinished: Sequence[UnfinishedRun], collapsed: int) -> str:
    """The result in plain words: the best Dice and what an epoch cost, or that nothing completed.

    collapsed: runs whose scores are in no average.
    """
    if not any(group.runs for group in groups):
        statuses = [run.status for run in unfinished]
        counts = ", ".join(f"{statuses.count(status)} {status}" for status in sorted(set(statuses)))
        return f"No run completed ({counts or 'the tables hold no run'}), so there is nothing to compare yet."
    row = _ranking_row(rows)
    if row is None and collapsed:
        return "Every run that was scored collapsed, so there is nothing to compare."
    if row is None:
        return "Runs completed, but no case was scored: run `mspipeline evaluate` on them."
    order = ranking(groups, rows)
    best = order[0]
    cell, score = row.cells[best], row.cells[best].value
    scored = sum(other.value is not None for other in row.cells)
    what, where = _RANKED_BY[row.key]
    if any(each.key.startswith(f"{row.key}.") for each in rows):
        what = what.replace("Dice", "mean Dice over labels")
    where = where.format(n=cell.cases, s="" if cell.cases == 1 else "s")
    aside = f" ({plural(collapsed, 'collapsed run')} left out)" if collapsed else ""
    if scored == 1:
        return f"{_name(groups[best])} reached a {what} of {score:.3f} {where}{aside}. {_epoch_sentence(rows, best)}"
    return (
        f"Of {scored} groups, {_name(groups[best])} had the highest {what} {where}: {score:.3f}{aside}. "
        f"{_epoch_sentence(rows, best)} {_doubt(cell, row.cells[order[1]])}"
    )


def ranking_notes(
    groups: Sequence[Group],
    members: Sequence[Sequence[dict[str, Any]]],
    rows: Sequence[Row],
    scores: pa.Table,
    left_out: Collection[str],
) -> list[str]:
    """Which runs the ranking is of, and how it is with those that collapsed; nothing where none did.

    members: each group's runs, as rows of the runs table. scores: as made by `case_rows.scored_rows`.
    """
    row = _ranking_row(rows)
    if not left_out or row is None:
        return []
    order = [index for index in ranking(groups, rows) if row.cells[index].value is not None]
    ranked = [f"{groups[i].letter} {row.cells[i].value:.3f} ({_seeds(members[i], left_out)})" for i in order]
    notes = [f"Ranked by the runs that did not collapse: {_listed(ranked)}."]
    if row.key.startswith("cases."):
        medians = median_runs(groups, scores, row.key.split(".")[1])
        scored = [(value, groups[index].letter) for index, value in enumerate(medians) if value is not None]
        everyone = [f"{letter} {value:.3f}" for value, letter in sorted(scored, key=lambda each: -each[0])]
        notes.append(
            "With every run counted, by each group's median run (of an even number the worse of the middle two): "
            f"{_listed(everyone)}."
        )
    return notes


def checkpoint_notes(groups: Sequence[Group], scores: pa.Table) -> list[str]:
    """Whose cases were not scored by the best checkpoint. scores: as made by `case_rows.scored_rows`."""
    by_last = set(scores.filter(pc.equal(scores["checkpoint"], "last"))["run_id"].to_pylist())
    notes = []
    for group in groups:
        if mine := [run for run in group.runs if run in by_last]:
            some = len(mine) < len(group.runs)
            which = (
                f"{len(mine)} of {len(group.runs)} runs of group {group.letter}" if some else f"Group {group.letter}"
            )
            others = ", other runs by their best" if some else ""
            notes.append(f"{which}: scored by the last checkpoint{others}; `mspipeline evaluate` scores the best.")
    return notes


def _listed(words: Sequence[str]) -> str:
    """The first dozen, and how many more there are."""
    more = f", and {len(words) - _LISTED} more" if len(words) > _LISTED else ""
    return ", ".join(words[:_LISTED]) + more


def _seeds(runs: Sequence[dict[str, Any]], left_out: Collection[str]) -> str:
    """The seeds of a group's complete runs that are left in."""
    left_in = [run for run in runs if run["status"] == "complete" and run["run_id"] not in left_out]
    seeds = sorted({run["seed"] for run in left_in if run["seed"] is not None})
    if not seeds or len(seeds) > _LISTED:
        return plural(len(left_in), "run")
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _doubt(best: Cell, second: Cell) -> str:
    """How far the order of the two best groups can be relied on."""
    words = "The difference between groups was not tested for significance"
    if best.cases == 1:
        words += ", and one case cannot show which network is better"
    elif best.run_low is not None and second.run_high is not None and second.run_high >= best.run_low:
        words += ", and their ranges over runs overlap"
    return f"{words}."


def ranking(groups: Sequence[Group], rows: Sequence[Row]) -> list[int]:
    """Indices of the groups by Dice, best first; then those without one, then those without a complete run.

    Runs whose scored network collapsed are not in that Dice.
    """
    row = _ranking_row(rows)

    def place(index: int) -> tuple[bool, float]:
        value = row.cells[index].value if row else None
        return not groups[index].runs, -1.0 * (value if value is not None else -1.0)

    return sorted(range(len(groups)), key=place)


def _ranking_row(rows: Sequence[Row]) -> Row | None:
    """The Dice by which groups are ranked: on held-out cases where any has been scored, else the next best evidence."""
    by_key = {row.key: row for row in rows}
    for key in _RANKED_BY:
        if key in by_key and any(cell.value is not None for cell in by_key[key].cells):
            return by_key[key]
    return None


def _epoch_sentence(rows: Sequence[Row], index: int) -> str:
    """How long an epoch of this group took, beside that of the fastest group on its device."""
    for row in rows:
        cell = row.cells[index]
        if not row.key.startswith("train_epoch_seconds.") or cell.value is None:
            continue
        fastest = min(other.value for other in row.cells if other.value is not None)
        factor, unit = time_unit(fastest)
        aside = f" (the fastest group's: {fastest / factor:.3g} {unit})" if fastest < cell.value else ""
        return f"One of its training epochs took {cell.main}{aside}."
    return "How long its epochs took was not measured."


def notes_on(groups: Sequence[Group], members: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    """What a reader must know before comparing columns. members: each group's runs, as rows of the runs table."""
    notes = sameness_notes(groups, members)
    complete = [[run for run in runs if run["status"] == "complete"] for runs in members]
    everything = [run for runs in complete for run in runs]
    for column, words in (("dataset_hash", "datasets"), ("recipe_hash", "recipes"), ("split_hash", "splits")):
        if (count := len({run[column] for run in everything})) > 1:
            notes.append(f"The runs come from {count} different {words}: their Dice values are not comparable.")
    for device in sorted({group.device for group in groups}):
        nodes = {_node(run) for run in everything if (run["device"] or "") == device}
        if len(nodes) > 1:
            notes.append(
                f"The {device.upper()} runs used {len(nodes)} different kinds of node or thread counts: "
                "their times and utilisations are not comparable without a look at the runs table."
            )
    for group, runs in zip(groups, complete, strict=True):
        if len({run["graph_hash"] for run in runs}) > 1:
            notes.append(f"Group {group.letter} holds runs of different graphs under one name.")
        if len({(run["seed"], run["config_hash"]) for run in runs}) > len({run["seed"] for run in runs}):
            notes.append(f"Group {group.letter} holds runs of one seed whose configurations differ.")
    if torn := [run["run_id"] for run in everything if run["telemetry_complete"] is False]:
        named = ", ".join(torn[:_NAMED]) + (", ..." if len(torn) > _NAMED else ".")
        notes.append(
            f"Telemetry of {plural(len(torn), 'run')} is incomplete; hardware rows are of what is left: {named}"
        )
    if any(len(group.runs) != group.started for group in groups):
        notes.append("Runs that failed or are unfinished are listed below and are in no average.")
    return notes


def _name(group: Group) -> str:
    network = f"{group.model} ({group.arguments})" if group.arguments else group.model
    return f"{network} with {group.backend} on the {group.device.upper()}"


def _node(run: dict[str, Any]) -> tuple[Any, ...]:
    return run["cpu_model"], run["cpus_allocated"], run["threads"], run["gpu_name"]
