from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from mspipeline.report import plots
from mspipeline.report.case_rows import case_scores, scored_rows
from mspipeline.report.series import POINTS
from mspipeline.report.summary import Comparison, Tables, load_tables, summarise
from tests.report.report_rows import case_row, epoch_row, run_row

SVG = "{http://www.w3.org/2000/svg}"


def load(folder: Path) -> tuple[Tables, Comparison]:
    tables = load_tables(folder)
    return tables, summarise(tables)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def lines(svg: str, colour: str) -> list[str]:
    """The paths of a line colour, legend samples left out."""
    found = [path for path in ET.fromstring(svg).iter(f"{SVG}path") if colour.lower() in path.get("style", "").lower()]
    return [path.get("d", "") for path in found if "clip-path" in path.attrib]


@pytest.fixture(scope="module")
def figures(campaign: Path) -> list[str]:
    """Loss, Dice, hardware on the CPU, hardware on the GPU, test cases."""
    return draw_all(campaign)


def draw_all(folder: Path) -> list[str]:
    tables, comparison = load(folder)
    groups = comparison.groups
    scores = case_scores(scored_rows(tables, groups))
    return [
        plots.epoch_curves(tables, groups, column="loss", label="loss"),
        plots.epoch_curves(tables, groups, column="dice", label="Dice"),
        plots.hardware_curves(tables, groups[0], groups[0].runs[0]),
        plots.hardware_curves(tables, groups[1], groups[1].runs[0]),
        plots.case_dots(scores, groups, "test"),
    ]


def test_figures_come_out_the_same_twice_and_share_no_id(campaign: Path, figures: list[str]) -> None:
    assert figures == draw_all(campaign)
    ids = [found for svg in figures for found in re.findall(r'\bid="([^"]+)"', svg)]
    assert len(ids) == len(set(ids)) > 0
    for svg in figures:
        for used in re.findall(r'(?:href="#|url\(#)([^")]+)', svg):
            assert f'id="{used}"' in svg


def test_curves_have_a_line_per_run_and_subset(figures: list[str]) -> None:
    svg = figures[1]
    assert len(lines(svg, plots.COLOURS[0])) == 4
    assert {"epoch", "Dice", "training", "validation"} <= set(texts(svg))
    assert any("torch, GPU" in text for text in texts(svg))


def test_long_curves_are_thinned_and_many_seeds_capped(tables_folder: Callable[..., Path]) -> None:
    runs = [run_row(f"run{seed}", seed=seed) for seed in range(plots.LINES + 2)]
    epochs = [epoch_row("run0", number, "validation", loss=1 + number * 7919 % 101) for number in range(1, 3001)]
    epochs += [epoch_row(f"run{seed}", 1, "validation", loss=1.0) for seed in range(1, plots.LINES + 2)]
    tables, comparison = load(tables_folder(runs=runs, epochs=epochs))
    found = lines(plots.epoch_curves(tables, comparison.groups, column="loss", label="loss"), plots.COLOURS[0])
    longest = max(found, key=len)
    assert POINTS / 2 < longest.count("L") < POINTS
    assert sum("L" in path or "M" in path for path in found) <= 2 * plots.LINES


def test_hardware_shows_the_gpu_only_where_one_was_sampled(figures: list[str]) -> None:
    _, _, on_cpu, on_gpu, _ = figures
    assert "GPU busy" not in texts(on_cpu)
    assert {"GPU busy", "GPU memory"} <= set(texts(on_gpu))
    assert {"setup", "train", "validation", "evaluate", "next job or attempt"} <= set(texts(on_cpu))


@pytest.mark.parametrize("name", ["$\\frac{", "_hidden", "<script>alert(1)</script>", "患者-01", "a" * 300])
def test_any_name_can_be_drawn(tables_folder: Callable[..., Path], name: str) -> None:
    cases = [case_row("a", name, "test"), case_row("a", "sub-02", "test", dice=None)]
    tables, comparison = load(tables_folder(runs=[run_row("a", model=name)], cases=cases))
    svg = plots.case_dots(case_scores(scored_rows(tables, comparison.groups)), comparison.groups, "test")
    assert sum(name[:20] in text for text in texts(svg)) == 2
    assert "<script" not in svg


def test_many_cases_are_ranked_instead_of_named(tables_folder: Callable[..., Path]) -> None:
    cases = [case_row("a", f"sub-{number:03d}", "test", dice=number / 100) for number in range(99)]
    tables, comparison = load(tables_folder(runs=[run_row("a")], cases=cases))
    words = texts(plots.case_dots(case_scores(scored_rows(tables, comparison.groups)), comparison.groups, "test"))
    assert not [word for word in words if word.startswith("sub-")]
    assert any("99 cases" in word for word in words)
