"""Figures as SVG text: curves per epoch, the hardware while a run went on, Dice per case.

Every figure stands on a white ground, uses a palette that colour-blind readers can tell apart (Okabe & Ito 2008) and
comes out the same, byte for byte, for the same tables. Groups bear the letters of the comparison.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.artist import Artist
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mspipeline.report.comparison import Group
from mspipeline.report.drawing import figure_style
from mspipeline.report.measures import GB
from mspipeline.report.series import binned, floats, phase_spans, running_seconds, thin
from mspipeline.report.tables import Tables

LINES = 5
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C8C00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
NAMED_CASES = 40

_PHASES = {
    "setup": "#ECECEC",
    "train": "#DCEBF7",
    "validation": "#FBE3CF",
    "mining": "#E4DCF1",
    "checkpoint": "#F3DCEB",
    "evaluate": "#D8EFE6",
}
_STYLE = {
    "svg.hashsalt": "mspipeline",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "text.parse_math": False,
}


def epoch_curves(tables: Tables, groups: Sequence[Group], *, column: str, label: str) -> str:
    """One measure per epoch: a thin line per run, solid in validation, dashed in training; a colour per group.

    column: of the epochs table, "loss" or "dice". At most `LINES` runs per group and `POINTS` points per line.
    """
    with figure_style(_STYLE):
        figure = _figure(4.3 + 0.22 * len(groups))
        axes = figure.add_subplot()
        longest = 0
        for index, group in enumerate(groups):
            for run in group.runs[:LINES]:
                rows = tables.epochs.filter(pc.equal(tables.epochs["run_id"], run)).sort_by("epoch")
                for subset, dashes in (("train", (0, (4, 2))), ("validation", "solid")):
                    of_subset = rows.filter(pc.equal(rows["subset"], subset))
                    epochs, values = thin(floats(of_subset, "epoch"), floats(of_subset, column))
                    if len(epochs):
                        longest = max(longest, int(epochs[-1]))
                    marker = "." if len(epochs) == 1 else ""
                    axes.plot(
                        epochs, values, color=COLOURS[index], linestyle=dashes, linewidth=1.2, marker=marker, alpha=0.9
                    )
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.set_xlim(0.5 if longest < 2 else 1, max(longest, 1.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(*((0, 1) if column == "dice" else (0, None)))
        handles = [Line2D([], [], color=COLOURS[index], linewidth=2) for index in range(len(groups))]
        words = [f"{group.letter}  {_short(group.label)}" for group in groups]
        handles += [Line2D([], [], color="#444444"), Line2D([], [], color="#444444", linestyle=(0, (4, 2)))]
        _legend(figure, handles, [*words, "validation", "training"], columns=1)
        return _svg(figure, column)


def hardware_curves(tables: Tables, group: Group, run_id: str) -> str:
    """CPU utilisation, memory and, where there is one, the GPU over the running time of one run, phases shaded.

    Time counts from the run's first sample; waits between attempts and jobs are left out. A line per host and per GPU;
    each point is the mean of its bin of samples (memory: the maximum).
    """
    rows = tables.samples.filter(pc.equal(tables.samples["run_id"], run_id)).sort_by("time_utc")
    seconds, gaps = running_seconds(rows)
    scale, unit = (1.0, "s") if len(seconds) == 0 or seconds[-1] < 300 else (60.0, "min")
    rows = rows.append_column("running", pa.array(seconds / scale, pa.float64()))
    process = rows.filter(pc.equal(rows["scope"], "process_tree"))
    gpu = rows.filter(pc.equal(rows["scope"], "gpu"))
    panels = [
        ("CPU (%)\n100 = 1 core", process, "host", "cpu_utilization_percent", 1.0, "mean"),
        ("memory\n(GB, RSS)", process, "host", "rss_bytes", 1 / GB, "max"),
    ]
    if gpu.num_rows:
        panels.append(("GPU busy\n(%)", gpu, "device_uuid", "gpu_utilization_ratio", 100.0, "mean"))
        panels.append(("GPU memory\n(GB)", gpu, "device_uuid", "gpu_memory_used_bytes", 1 / GB, "max"))
    with figure_style(_STYLE):
        figure = _figure(0.9 + 1.35 * len(panels))
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        found = phase_spans(floats(process, "running"), process["phase"])
        phases = {phase: found[phase] for phase in _PHASES if phase in found}
        for axes, (label, source, key, column, factor, how) in zip(grid, panels, strict=True):
            sources = sorted({name or "" for name in source[key].to_pylist()})[: len(COLOURS)]
            for colour, name in zip(COLOURS, sources, strict=False):
                mine = source.filter(pc.equal(pc.fill_null(source[key], ""), name))
                times, values = binned(floats(mine, "running"), floats(mine, column) * factor, how)
                axes.plot(times, values, color=colour, linewidth=1.2, marker="." if len(times) == 1 else "")
            axes.set_ylabel(label)
            axes.set_ylim(0, None)
            top = axes.get_ylim()[1]
            for phase, spans in phases.items():
                axes.broken_barh(spans, (0, top), facecolors=_PHASES[phase], linewidth=0, zorder=0)
            for gap in gaps:
                axes.axvline(gap / scale, color="#777777", linewidth=0.8, linestyle=":")
            axes.set_ylim(0, top)
        grid[-1].set_xlim(0, max(float(seconds[-1]) / scale if len(seconds) else 0.0, 1e-3))
        grid[-1].set_xlabel(f"running time ({unit})")
        figure.align_ylabels(grid)
        handles: list[Artist] = [
            Patch(facecolor=_PHASES[phase], edgecolor="#AAAAAA", linewidth=0.5) for phase in phases
        ]
        words = list(phases)
        if gaps:
            handles.append(Line2D([], [], color="#777777", linewidth=0.8, linestyle=":"))
            words.append("next job or attempt")
        _legend(figure, handles, words, columns=3)
        return _svg(figure, f"hardware-{group.letter}")


def case_dots(scores: pa.Table, groups: Sequence[Group], subset: str, *, name: str = "") -> str:
    """Dice of every case of a subset, a mark per group. Beyond `NAMED_CASES` cases they are ranked, not named.

    scores: as made by `case_rows.case_scores`, of one label; cases without a defined Dice have no mark. name: keeps the
    figure's ids apart from those of others.
    """
    rows = scores.filter(pc.equal(scores["subset"], subset))
    cases = sorted(set(rows["case"].to_pylist()))
    named = len(cases) <= NAMED_CASES
    with figure_style(_STYLE):
        height = 1.1 + 0.26 * len(cases) if named else 4.3
        figure = _figure(height + 0.22 * len(groups))
        axes = figure.add_subplot()
        for index in range(len(groups)):
            mine = rows.filter(pc.and_(pc.equal(rows["group"], index), pc.is_valid(rows["dice"])))
            dice = floats(mine, "dice")
            places = np.asarray(pc.index_in(mine["case"], value_set=pa.array(cases, pa.string())).to_numpy(), float)
            if not named:
                places, dice = thin(np.arange(1, len(dice) + 1, dtype=float), np.sort(dice))
            shift = (index - (len(groups) - 1) / 2) * min(0.16, 0.6 / len(groups)) if named else 0.0
            across, up = (dice, places + shift) if named else (places, dice)
            axes.plot(
                across,
                up,
                linestyle="",
                marker=MARKERS[index],
                color=COLOURS[index],
                markersize=6 if named else 3,
                alpha=0.9,
            )
        if named:
            axes.set_yticks(range(len(cases)), [_short(case, 28) for case in cases])
            axes.set_ylim(len(cases) - 0.5, -0.5)
            axes.set_xlim(0, 1)
            axes.set_xlabel("Dice on the scan's own grid")
        else:
            axes.set_xlabel(f"cases, each group's from worst to best ({len(cases)} cases)")
            axes.set_ylabel("Dice on the scan's own grid")
            axes.set_ylim(0, 1)
        handles = [
            Line2D([], [], linestyle="", marker=MARKERS[index], color=COLOURS[index]) for index in range(len(groups))
        ]
        _legend(figure, handles, [f"{group.letter}  {_short(group.label)}" for group in groups], columns=1)
        return _svg(figure, name or f"cases-{subset}")


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(5.6, height), layout="constrained", facecolor="white")
    FigureCanvasSVG(figure)
    return figure


def _legend(figure: Figure, handles: Sequence[Artist], words: Sequence[str], *, columns: int) -> None:
    """A legend below the axes, where it covers no data."""
    if handles:
        figure.legend(handles, words, loc="outside lower left", ncols=columns, frameon=False, fontsize=9)


def _svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element to put inside a page; `name` keeps its ids apart from other figures'."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Labels are drawn by the reader's browser: that matplotlib's own font lacks a letter does not matter.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg") :])
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"<>]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    # Hundredths of a point are finer than any screen; matplotlib writes millionths.
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]).replace("\n", ""), text)
    opening, rest = text.split(">", 1)
    opening = re.sub(r' (?:width|height)="[^"]*"', "", opening)
    return f'{opening} stroke-linejoin="round">{rest}'


def _short(text: str, length: int = 64) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
