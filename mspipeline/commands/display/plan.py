"""The plan of a sweep, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mspipeline.campaigns.plan import SweepPlan
from mspipeline.commands.display.table import print_json, table
from mspipeline.console import stderr, stdout

UNKNOWN = "-"


def print_plan(plan: SweepPlan, *, as_json: bool, scripts: Sequence[Path] = (), dry_run: bool = False) -> None:
    """What a sweep will ask for: a table, on stdout where it is all that was asked for, or JSON.

    scripts: those that a dry run wrote.
    """
    if as_json:
        print_json({**asdict(plan), "scripts": scripts})
        return
    console = stdout if dry_run else stderr
    shown = table(
        [
            "runs",
            "partition",
            "image",
            "cells",
            "jobs",
            "processes",
            "packed",
            "cpus / job",
            "gres",
            "min",
            "core-hours",
        ],
        words=3,
    )
    for row in plan.jobs:
        shown.add_row(
            row.steps,
            row.partition or "this machine",
            row.image or "none",
            *(str(number) for number in (row.cells or UNKNOWN, row.jobs, row.processes, row.pack)),
            *(UNKNOWN if value is None else str(value) for value in (row.cpus, row.gres, row.time_min)),
            UNKNOWN if row.core_hours is None else f"{row.core_hours:,.1f}",
        )
    hours = "core-hours unknown: no time limit or no cpus in the site file"
    if plan.core_hours is not None:
        hours = f"at most {plan.core_hours:,.1f} core-hours an attempt, if every job ran into its limit"
    console.print(f"{plan.sweep}: {plan.cells} cells on site {plan.site}, {hours}")
    console.print(shown)
    room = "" if plan.fits else ": TOO LITTLE"
    console.print(
        f"disk: about {_size(plan.disk_bytes)} of checkpoints and certificates (estimated from the networks' weights), "
        f"{_size(plan.free_bytes)} free at {plan.output}{room}"
    )
    for problem in plan.problems:
        console.print(f"cells will fail: {problem}")
    for path in scripts:
        console.print(f"wrote {path}")


def _size(count: int) -> str:
    """Bytes in the largest unit of which there is one."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
