"""Runs whose network predicts nothing, or lesion everywhere: named before any score, and kept out of their averages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mspipeline.report.comparison import CollapsedRun, Group
from mspipeline.report.measures import aggregate

_WHAT = {"nothing": "predicts nothing", "everything": "calls every voxel lesion"}


def collapsed_runs(
    groups: Sequence[Group], members: Sequence[Sequence[dict[str, Any]]], scores: pa.Table
) -> tuple[CollapsedRun, ...]:
    """Every complete run that collapsed, by group and run.

    members: each group's runs, as rows of the runs table. scores: as made by `case_rows.scored_rows`.
    A run counts where its record says so, or where every case scored on its own grid shows it: no voxel predicted in
    any although the truth has some, or every voxel predicted. That also finds runs of before the record knew.
    """
    shown = _shown_by_cases(scores)
    by_last = set(scores.filter(pc.equal(scores["checkpoint"], "last"))["run_id"].to_pylist())
    found = []
    for group, runs in zip(groups, members, strict=True):
        for run in sorted(runs, key=lambda row: str(row["run_id"])):
            run_id = run["run_id"]
            if run["status"] != "complete" or not (run["collapsed"] or run_id in shown):
                continue
            to = (run["collapsed_to"] if run["collapsed"] else None) or shown.get(run_id)
            epoch, best = (run["collapsed_epoch"] if run["collapsed"] else None), run["best_epoch"]
            before = epoch is not None and best is not None and best < epoch and run_id not in by_last
            scored = run_id in shown or not before
            words = _words(to, epoch, best, scored=scored)
            found.append(CollapsedRun(run_id, run["seed"], group.letter, to, epoch, scored, words))
    return tuple(found)


def left_out(collapsed: Sequence[CollapsedRun]) -> frozenset[str]:
    """The runs whose scores are those of a collapsed network."""
    return frozenset(run.run_id for run in collapsed if run.scored)


def _words(to: str | None, epoch: int | None, best: int | None, *, scored: bool) -> str:
    what = _WHAT.get(to or "", "predicts one and the same everywhere")
    since = f"from epoch {epoch} on" if epoch is not None else "in every case scored"
    if scored:
        return f"{what} {since}; its scores are in no average and not in the ranking"
    return f"{what} {since}; its scores are those of epoch {best}, before that, and stay in"


def _shown_by_cases(scores: pa.Table) -> dict[str, str]:
    """Run -> "nothing" or "everything", of runs whose predictions are so in every one of their cases."""
    rows = scores.append_column("background", pc.add(scores["true_negative"], scores["false_negative"]))
    counted = [(name, "count") for name in ("run_id", "prediction_ml", "background")]
    largest = [(name, "max") for name in ("truth_ml", "prediction_ml", "background")]
    shown: dict[str, str] = {}
    for row in aggregate(rows, ["run_id"], [*counted, *largest]).to_pylist():
        cases = row["run_id_count"]
        if row["prediction_ml_count"] == cases and row["prediction_ml_max"] == 0 and (row["truth_ml_max"] or 0) > 0:
            shown[row["run_id"]] = "nothing"
        elif row["background_count"] == cases and row["background_max"] == 0:
            shown[row["run_id"]] = "everything"
    return shown
