"""Scores of whole cases: the rows of the comparison, with the spread over cases and that over runs apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mspipeline.report.comparison import Cell, Group, Row, absent, plural
from mspipeline.report.definitions import (
    CASE_VALUE,
    HELD_OUT,
    HELD_OUT_DEFINITION,
    OVER_LABELS,
    SUBSET_WORDS,
)
from mspipeline.report.measures import aggregate
from mspipeline.report.score_columns import score_columns
from mspipeline.report.tables import Tables

Ints: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]
Floats: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]


def scored_rows(tables: Tables, groups: Sequence[Group]) -> pa.Table:
    """The rows of the cases table that a comparison is made of, with the group (index into `groups`) of each.

    Those of complete runs, on the scan's own grid; where a run was scored by its best checkpoint and by another one,
    those of the best.
    """
    owners = {run: index for index, group in enumerate(groups) for run in group.runs}
    rows = tables.cases
    position = pc.index_in(rows["run_id"], value_set=pa.array(list(owners), pa.string()))
    rows = rows.append_column("group", pa.array(list(owners.values()), pa.int32()).take(position))
    rows = rows.filter(pc.and_(pc.is_valid(position), pc.equal(rows["grid"], "scan")))
    of_best = pc.fill_null(pc.equal(rows["checkpoint"], "best"), False)
    scored_best = pc.unique(rows.filter(of_best)["run_id"])
    return rows.filter(pc.or_(of_best, pc.invert(pc.is_in(rows["run_id"], value_set=scored_best))))


def labels_of(rows: pa.Table) -> list[str]:
    """The labels and regions that rows of cases are of, in the order of the table; a single one as a rule, lesion."""
    return [label or "unknown" for label in pc.unique(rows["label"]).to_pylist()]


def over_labels(rows: pa.Table) -> pa.Table:
    """One row of each case in each run, its Dice the mean over labels where it is defined; regions repeat labels and
    do not count. With one label, the rows as they are.

    rows: as made by `scored_rows`.
    """
    if len(labels_of(rows)) < 2:
        return rows
    labels = rows.filter(pc.is_null(rows["united"]))
    means = aggregate(labels, ["run_id", "group", "subset", "case", "checkpoint"], [("dice", "mean")])
    return means.rename_columns(["dice" if name == "dice_mean" else name for name in means.column_names])


def of_label(rows: pa.Table, label: str) -> pa.Table:
    """The rows of a label or region."""
    return rows.filter(pc.equal(rows["label"], label))


def case_scores(rows: pa.Table, left_out: Collection[str] = ()) -> pa.Table:
    """Scores of each label in each case in each group, averaged over the group's runs without those in `left_out`.

    rows: as made by `scored_rows`. Columns: group, subset, case, label, each of `score_columns` (null where undefined
    in every run), for each score `<score>_defined` (runs in which it is defined), runs. Sorted by subset (test first),
    case, group, label as in the table.
    """
    scores = [column.name for column in score_columns(rows.schema)]
    rows = rows.filter(pc.invert(pc.is_in(rows["run_id"], value_set=pa.array(list(left_out), pa.string()))))
    parts = [(name, how) for name in scores for how in ("mean", "count")]
    means = aggregate(rows, ["group", "subset", "case", "label"], [*parts, ("run_id", "count")])
    names = {f"{name}_mean": name for name in scores} | {f"{name}_count": f"{name}_defined" for name in scores}
    means = means.rename_columns([{**names, "run_id_count": "runs"}.get(name, name) for name in means.column_names])
    means = means.append_column("order", pc.index_in(means["subset"], value_set=pa.array(list(HELD_OUT))))
    means = means.append_column("place", pc.index_in(means["label"], value_set=pc.unique(rows["label"])))
    keys = [(name, "ascending") for name in ("order", "case", "group", "place")]
    return means.sort_by(keys).drop_columns(["order", "place"])


def case_rows(groups: Sequence[Group], rows: pa.Table, left_out: Collection[str]) -> list[Row]:
    """Dice of whole cases, a row for each subset (test always has one), and the lesion scores of the first of them.

    Of several labels, Dice has a row of the mean over labels, then one of each label or region, as other scores have.
    rows: as made by `scored_rows`. left_out: runs whose network collapsed.
    """
    present = set(rows["subset"].to_pylist())
    made = []
    labels, as_one = labels_of(rows), over_labels(rows)
    several = [(label, of_label(rows, label)) for label in labels] if len(labels) > 1 else []
    united = set(pc.unique(rows.filter(pc.is_valid(rows["united"]))["label"]).to_pylist())
    for subset, (name, use) in HELD_OUT.items():
        if subset == "test" or subset in present:
            mean = [label for label in labels if label not in united] if several else []
            title = f"{name}, mean over {plural(len(mean), 'label')}" if several else name
            words = f"{HELD_OUT_DEFINITION} {OVER_LABELS.format(', '.join(mean))}" if several else HELD_OUT_DEFINITION
            cells = _cells(groups, as_one, subset, "dice", ".3f", left_out)
            made.append(Row(f"cases.{subset}.dice", "Dice", title, "1", f"{words} {use}", cells))
            for label, own in several:
                cells = _cells(groups, own, subset, "dice", ".3f", left_out)
                definition = f"{HELD_OUT_DEFINITION} {use}"
                made.append(Row(f"cases.{subset}.dice.{label}", "Dice", f"{name}: {label}", "1", definition, cells))
    subset = next((each for each in HELD_OUT if each in present), "")
    for score in score_columns(rows.schema) if subset else ():
        for label, own in (several or [("", rows)]) if score.row else ():
            if label and own[score.name].null_count == own.num_rows:
                continue  # of a label whose components nobody counts
            cells = _cells(groups, own, subset, score.name, score.format, left_out)
            title = f"{SUBSET_WORDS[subset]}: {label + ', ' if label else ''}{score.row}"
            key = f"cases.{subset}.{score.name}{'.' + label if label else ''}"
            definition = f"{score.definition} {CASE_VALUE}"
            made.append(Row(key, "Lesions and surfaces", title, score.unit or "1", definition, cells))
    return made


def median_runs(groups: Sequence[Group], rows: pa.Table, subset: str) -> list[float | None]:
    """Each group's Dice in its median run, every run counted; of an even number the worse of the two middle ones.

    So it is the Dice that one run had (its median over cases; 0 where it has none), never an average of a run that
    collapsed with one that did not. None where no run was scored.
    """
    rows = over_labels(rows)
    found: list[float | None] = []
    for index in range(len(groups)):
        mine = rows.filter(pc.and_(pc.equal(rows["group"], index), pc.equal(rows["subset"], subset)))
        medians = np.sort(np.nan_to_num(_medians(*_arrays(mine, "run_id", "dice"))))
        found.append(float(medians[(len(medians) - 1) // 2]) if len(medians) else None)
    return found


def _cells(
    groups: Sequence[Group], rows: pa.Table, subset: str, column: str, pattern: str, left_out: Collection[str]
) -> tuple[Cell, ...]:
    of_subset = rows.filter(pc.equal(rows["subset"], subset))
    return tuple(
        _cell(group, of_subset.filter(pc.equal(of_subset["group"], index)), column, pattern, left_out)
        for index, group in enumerate(groups)
    )


def _cell(group: Group, rows: pa.Table, column: str, pattern: str, left_out: Collection[str]) -> Cell:
    """One score of a group: the median over runs of each run's median over cases; n counts the values behind it."""
    if not group.runs:
        return absent("no complete run")
    if not rows.num_rows:
        return absent()
    collapsed = pc.is_in(rows["run_id"], value_set=pa.array(list(left_out), pa.string()))
    gone = len(set(rows.filter(collapsed)["run_id"].to_pylist()))
    aside = [f"{plural(gone, 'collapsed run')} left out"] if gone else []
    rows = rows.filter(pc.invert(collapsed))
    if not rows.num_rows:
        return absent("every run collapsed")
    runs, values = _arrays(rows, "run_id", column)
    defined = int(np.count_nonzero(~np.isnan(values)))
    if not defined:
        words = "undefined" if len(values) == 1 else f"undefined in all {len(values)} scores"
        return absent("; ".join([words, *aside]))
    of_runs = _defined(_medians(runs, values))
    of_cases = _defined(_means(*_arrays(rows, "case", column)))
    value = float(np.median(of_runs))
    parts = [_spread("case", of_cases, pattern), _spread("run", of_runs, pattern)]
    if defined < len(values):
        parts.append(f"{defined} of {plural(len(values), 'score')} defined")
    return Cell(
        value,
        f"{value:{pattern}}",
        "; ".join([*parts, *aside]),
        low=float(of_cases.min()),
        high=float(of_cases.max()),
        run_low=float(of_runs.min()),
        run_high=float(of_runs.max()),
        cases=len(of_cases),
        n=defined,
    )


def _spread(what: str, values: Floats, pattern: str) -> str:
    """The range of some values with their number; of one value, that it is one."""
    if len(values) == 1:
        return f"1 {what}"
    return f"{what}s {values.min():{pattern}} to {values.max():{pattern}} (n = {len(values)})"


def _arrays(rows: pa.Table, key: str, column: str) -> tuple[Ints, Floats]:
    """The number of each row's `key` and its value, null as NaN."""
    codes = pc.dictionary_encode(rows[key].combine_chunks()).indices.to_numpy(zero_copy_only=False)
    return np.asarray(codes, np.int64), np.asarray(pc.cast(rows[column], pa.float64()).to_numpy(), float)


def _medians(keys: Ints, values: Floats) -> Floats:
    """The median of the defined values of each key; NaN where it has none."""
    return np.array(
        [np.median(found) if len(found := _defined(values[keys == key])) else np.nan for key in np.unique(keys)]
    )


def _means(keys: Ints, values: Floats) -> Floats:
    """The mean of the defined values of each key; NaN where it has none."""
    known = ~np.isnan(values)
    counts = np.bincount(keys[known], minlength=int(keys.max()) + 1)
    sums = np.bincount(keys[known], weights=values[known], minlength=len(counts))
    return np.asarray(np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0), float)


def _defined(values: Floats) -> Floats:
    return values[~np.isnan(values)]
