"""Tables that the command line prints, and the live table of a campaign."""

from __future__ import annotations

import json
import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from rich import box
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mspipeline.backends.certificate import Outcome, say_error
from mspipeline.backends.registry import BACKENDS, adapter
from mspipeline.console import show, stderr, stdout
from mspipeline.models.catalogue import MODELS, build
from mspipeline.models.catalogue import entry as catalogue_entry
from mspipeline.network.cost import cost
from mspipeline.report.comparison import NOT_MEASURED
from mspipeline.runs import RunPaths, read_record, read_rows
from mspipeline.shards.manifest import Manifest
from mspipeline.telemetry.schema import CASES, EPOCHS
from slurm.progress import CellState

if TYPE_CHECKING:
    from mspipeline.doctor import Finding
    from mspipeline.report.comparison import Comparison

LAST_WORDS = ("now", "backends", "arguments", "verdict")
"""Columns of words that stand after those of numbers."""
MESSAGE_WIDTH = 48
"""Columns for a cell's last words in the live table, whose height must not jump; `status --json` has them whole."""
STATE_STYLE = {
    "done": "green",
    "running": "cyan",
    "failed": "bold red",
    "interrupted": "yellow",
    "pending": "dim",
    "absent": "magenta",
}


def print_json(document: Any) -> None:
    """Plain data on stdout, as JSON; NaN becomes null."""
    stdout.print(Text(json.dumps(_finite(document), allow_nan=False, default=str, indent=2, ensure_ascii=False)))


def print_manifest(manifest: Manifest, folder: Path) -> None:
    """What was prepared, and the next command."""
    height, width, channels = manifest.image_shape
    slices = sum(entry.slices for entry in manifest.cases)
    subsets = ", ".join(f"{len(manifest.split.cases(subset))} {subset}" for subset in ("train", "validation", "test"))
    stdout.print(
        f"{folder}: {len(manifest.cases)} cases ({subsets}), {slices} slices of {height}x{width}x{channels} "
        f"({', '.join(manifest.channels)}), recipe {manifest.recipe_hash[:12]}"
    )
    for skipped in manifest.skipped:
        stdout.print(f"  left out {skipped.case}: {skipped.reason}")
    if not manifest.split.validation:
        stdout.print(
            "  no case is held out for validation: the best checkpoint will be that of the lowest training loss"
        )
    stdout.print(f"next: mspipeline train unet2d {folder}")


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


def print_cases(folder: Path, *, as_json: bool) -> None:
    """Every case that a run was scored on."""
    rows = read_rows(RunPaths(folder).cases, CASES).to_pylist()
    if as_json:
        print_json(rows)
        return
    columns = [
        "case",
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
    table = _table(columns, words=2)
    for row in rows:
        scores = (row[name] for name in ("dice", "iou", "precision", "recall"))
        table.add_row(
            row["case"],
            row["subset"],
            *map(show, scores),
            show(row["specificity"], 5),
            show(row["volume_error_percent"], 1),
            show(row["truth_ml"], 2),
            show(row["prediction_ml"], 2),
        )
    stdout.print(table)
    for subset in dict.fromkeys(row["subset"] for row in rows):
        dice = [row["dice"] for row in rows if row["subset"] == subset and row["dice"] == row["dice"]]
        if dice:
            stdout.print(
                f"{subset}: median Dice {statistics.median(dice):.3f} over {len(dice)} cases with a defined Dice"
            )
    stdout.print("scored on each scan's own grid; a dash is undefined (no lesion in truth or prediction)")


def print_tables(tables: Mapping[str, pa.Table], folder: Path, *, as_json: bool) -> None:
    """How many rows each collected table has."""
    counts = {name: table.num_rows for name, table in tables.items()}
    if as_json:
        print_json(counts)
    else:
        stdout.print(f"{folder}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


def print_comparison(comparison: Comparison, page: Path, *, as_json: bool) -> None:
    """The report's table, and where the page is."""
    if as_json:
        print_json({"page": str(page), **comparison.to_json()})
        return
    header, *rows = comparison.rows()
    table = _table(header, words=1)
    section, unmeasured = "", 0
    for row, measure in zip(rows, comparison.table, strict=True):
        if all(cell.value is None and cell.main == NOT_MEASURED for cell in measure.cells):
            unmeasured += 1
            continue
        if measure.section != section:
            table.add_section()
            section = measure.section
        table.add_row(*row)
    stdout.print(comparison.headline)
    stdout.print(table)
    if unmeasured:
        stdout.print(f"{unmeasured} rows that nobody measured here are on the page alone")
    for note in comparison.notes:
        stdout.print(f"note: {note}")
    for run in comparison.unfinished:
        stdout.print(f"left out: {run.run_id} ({run.status}{': ' if run.problem else ''}{run.problem})")
    stdout.print(f"page: {page.resolve().as_uri()}")


def print_models(only: str | None = None, *, as_json: bool) -> None:
    """Each network, or one, at its example size: parameters, multiply-accumulates, backends that can realise it."""
    rows: list[dict[str, Any]] = []
    models = MODELS if only is None else {only: catalogue_entry(only)}
    for name, entry in models.items():
        graph = build(name, entry.example_shape, {})
        costs = cost(graph)
        rows.append(
            {
                "name": name,
                "trainable": costs.trainable,
                "non_trainable": costs.non_trainable,
                "total": costs.total,
                "macs": costs.macs,
                "backends": [backend for backend in BACKENDS if not adapter(backend).unsupported(graph)],
            }
        )
    if as_json:
        print_json(rows)
        return
    table = _table(["model", "images", "trainable", "non-trainable", "GMAC / image", "backends", "arguments"], words=1)
    for row, (name, entry) in zip(rows, models.items(), strict=True):
        table.add_row(
            name,
            "x".join(map(str, entry.example_shape)),
            f"{row['trainable']:,}",
            f"{row['non_trainable']:,}",
            f"{row['macs'] / 1e9:.3g}",
            ", ".join(row["backends"]),
            ", ".join(f"{key}={value}" for key, value in entry.arguments.items()),
        )
    stdout.print(table)


def print_nodes(name: str, *, as_json: bool) -> None:
    """A network at its example size, node by node, and in total; activations are those of one image, in float32."""
    shape = catalogue_entry(name).example_shape
    costs = cost(build(name, shape, {}))
    total = {
        "trainable": costs.trainable,
        "non_trainable": costs.non_trainable,
        "total": costs.total,
        "macs": costs.macs,
        "activation_bytes": costs.activation_bytes(batch_size=1),
    }
    if as_json:
        print_json({"name": name, "image_shape": shape, **total, "nodes": [asdict(node) for node in costs.nodes]})
        return
    table = _table(["node", "operation", "shape", "parameters", "MMAC", "activations MB"], words=3)
    for node in costs.nodes:
        table.add_row(
            node.name,
            node.op,
            "x".join(map(str, node.shape)),
            f"{node.trainable + node.non_trainable:,}",
            f"{node.macs / 1e6:,.2f}",
            f"{node.activation_bytes / 1e6:,.2f}",
        )
    table.add_section()
    table.add_row(
        f"{len(costs.nodes)} nodes",
        "",
        "",
        f"{costs.total:,}",
        f"{costs.macs / 1e6:,.2f}",
        f"{total['activation_bytes'] / 1e6:,.2f}",
    )
    stdout.print(table)
    stdout.print(
        f"{name} on an image of {'x'.join(map(str, shape))}: {costs.trainable:,} trainable parameters, "
        f"{costs.non_trainable:,} that training does not fit"
    )


def print_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """What `doctor` found: a line each, with what to do where something is missing."""
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    for finding in findings:
        style = {"ok": "green", "missing": "yellow", "broken": "bold red"}[finding.state]
        stdout.print(Text.assemble((f"{finding.state:7}", style), f" {finding.what}: {finding.detail}"))
        if finding.remedy:
            stdout.print(f"        -> {finding.remedy}")


def print_certification(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    """How each backend agrees with the reference: a line a quantity, with its worst node; then what came of it."""
    if as_json:
        print_json(
            [
                {
                    "backend": each.backend,
                    "state": each.state,
                    "detail": each.detail,
                    "file": each.file,
                    "certificate": None if each.certificate is None else each.certificate.model_dump(mode="json"),
                }
                for each in outcomes
            ]
        )
        return
    table = _table(["backend", "quantity", "worst node", "error", "tolerance", "left out", "verdict"], words=3)
    for each in outcomes:
        for row in () if each.certificate is None else each.certificate.measured:
            table.add_row(
                each.backend,
                row.quantity,
                row.worst,
                say_error(row.error),
                f"{row.tolerance:.0e}",
                f"{100 * row.left_out / row.of:.0f} %" if row.of else "-",
                Text("agrees", "green") if row.agrees else Text(f"differs from {row.begins} on", "bold red"),
            )
    if table.row_count:
        stdout.print(table)
    for each in outcomes:
        state = "is the reference" if each.state == "reference" else each.state
        file = "" if each.file is None else f"; {each.file}"
        stdout.print(f"{each.backend} {state}{': ' if each.detail else ''}{each.detail}{file}")


def print_states(states: Sequence[CellState], *, as_json: bool = False) -> None:
    """The cells of a campaign."""
    if as_json:
        print_json([asdict(state) for state in states])
    else:
        stdout.print(_states_table(states))


class LiveStates:
    """Observer of a campaign: a table redrawn in place on a terminal, a line per change elsewhere."""

    def __init__(self) -> None:
        self._terminal = stderr.is_terminal
        self._live = Live(console=stderr, auto_refresh=False) if self._terminal else None
        self._said: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> LiveStates:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, states: list[CellState]) -> None:
        if self._live is not None:
            self._live.update(_states_table(states), refresh=True)
            return
        for state in states:
            now = (state.state, state.epoch)
            if self._said.get(state.id, ("pending", 0)) != now:
                self._said[state.id] = now
                stderr.print(
                    f"{state.id}: {state.state}, epoch {state.epoch}/{state.epochs}, Dice {show(state.train_dice)} "
                    f"train, {show(state.validation_dice)} validation"
                )


def _states_table(states: Sequence[CellState]) -> Table:
    columns = ["cell", "state", "epoch", "Dice train", "validation", "images/s", "left", "now"]
    table = _table(columns, words=2)
    for state in states:
        table.add_row(
            state.id,
            Text(state.state, STATE_STYLE[state.state]),
            f"{state.epoch}/{state.epochs}",
            show(state.train_dice),
            show(state.validation_dice),
            show(state.images_per_second, 0),
            "-" if state.eta_s is None else f"{state.eta_s / 60:.1f} min",
            textwrap.shorten(state.message, MESSAGE_WIDTH, placeholder=" ..."),
        )
    return table


def _table(columns: Sequence[str], *, words: int) -> Table:
    """A table whose first `words` columns hold words and the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if number < words or column in LAST_WORDS else "right"
        table.add_column(column, justify=justify)
    return table


def _finite(document: Any) -> Any:
    """`document` with what is not finite as null, which JSON has."""
    if isinstance(document, Mapping):
        return {key: _finite(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [_finite(value) for value in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document
