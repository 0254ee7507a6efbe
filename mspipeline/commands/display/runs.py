"""A training, and the cases that it was scored on."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mspipeline.commands.display.table import print_json, table
from mspipeline.console import show, stdout
from mspipeline.labels import LESION
from mspipeline.runs import RunPaths, read_record, read_rows
from mspipeline.tables.schema import AS_DRAWN, CASES, EPOCHS

TRUTHS_SHOWN = 3


def print_run(folder: Path, *, as_json: bool) -> None:
    """A finished training and the next command."""
    record = read_record(RunPaths(folder))
    if as_json:
        print_json({**record.model_dump(mode="json"), "run_folder": str(folder)})
        return
    best = {
        row["subset"]: row
        for row in read_rows(RunPaths(folder).epochs, EPOCHS).to_pylist()
        if row["epoch"] == record.best_epoch
    }
    scores = ", ".join(
        f"{subset} Dice {show(row['dice'])}, loss {show(row['loss'], 4)}" for subset, row in best.items()
    )
    stdout.print(f"{folder}: {record.epochs} epochs, best by {record.monitor}: epoch {record.best_epoch} ({scores})")


def print_cases(folder: Path, *, checkpoint: str, as_json: bool) -> None:
    """Every case that a checkpoint of a run was scored on, label by label, and what the truth was."""
    rows = [row for row in read_rows(RunPaths(folder).cases, CASES).to_pylist() if row["checkpoint"] == checkpoint]
    if as_json:
        print_json(rows)
        return
    labels = list(dict.fromkeys(row["label"] for row in rows))
    several = len(labels) > 1
    columns = [
        "case",
        *(["label"] if several else []),
        "subset",
        "Dice",
        "IoU",
        "precision",
        "recall",
        "specificity",
        "volume error %",
        "truth ml",
        "found ml",
    ]
    shown = table(columns, words=3 if several else 2)
    for row in rows:
        scores = (row[name] for name in ("dice", "iou", "precision", "recall"))
        shown.add_row(
            row["case"],
            *([row["label"]] if several else []),
            row["subset"],
            *map(show, scores),
            show(row["specificity"], 5),
            show(row["volume_error_percent"], 1),
            show(row["truth_ml"], 2),
            show(row["prediction_ml"], 2),
        )
    stdout.print(shown)
    for subset in dict.fromkeys(row["subset"] for row in rows):
        for label in labels:
            of_label = [row["dice"] for row in rows if (row["subset"], row["label"]) == (subset, label)]
            if dice := [value for value in of_label if value == value]:
                cases = "1 case" if len(dice) == 1 else f"{len(dice)} cases"
                what = f"{subset}, {label}" if several else subset
                stdout.print(f"{what}: median Dice {statistics.median(dice):.3f} over {cases} with a defined Dice")
    what = "voxel of it" if several else "lesion" if labels in ([], [LESION]) else labels[0]
    stdout.print(
        f"{checkpoint} checkpoint, each scan's own grid; a dash is undefined (no {what} in truth or prediction)"
    )
    stdout.print(f"truth: {_truth(rows)}")


def _truth(rows: Sequence[Mapping[str, Any]]) -> str:
    """What these rows of the table `cases` were scored against."""
    truths = {row["case"]: row["truth"] for row in rows}  # of all labels of a case
    moved = {case: truth for case, truth in truths.items() if truth not in (AS_DRAWN, None)}
    unknown = sum(truth is None for truth in truths.values())
    drawn = len(truths) - len(moved) - unknown
    parts = [f"each case's mask as it was drawn, on the scan's own grid ({drawn} case{'s' if drawn != 1 else ''})"]
    if moved:
        shown = ", ".join(f"{case} by {way}" for case, way in list(moved.items())[:TRUTHS_SHOWN])
        more = f" and {len(moved) - TRUTHS_SHOWN} more" if len(moved) > TRUTHS_SHOWN else ""
        parts.append(f"masks drawn on another grid and resampled onto the scan's ({shown}{more})")
    if unknown:
        parts.append(f"not known of {unknown} case{'s' if unknown > 1 else ''} that an earlier version scored")
    return "; ".join(parts if drawn else parts[1:])
