from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mspipeline.report.comparison import Comparison
from mspipeline.report.summary import load_tables, summarise
from tests.report.report_rows import case_row, epoch_row, run_row

Write = Callable[..., Path]
COLLAPSED = {"collapsed": True, "collapsed_to": "nothing", "collapsed_epoch": 8, "best_epoch": 10}


def demo(write: Write, *, recorded: bool = True) -> Comparison:
    """As the demo once was: on each of two backends, seed 0 collapsed and was scored so, seed 1 did not."""
    runs, cases = [], []
    for backend, healthy in (("jax", 0.717), ("tensorflow", 0.7)):
        changes: dict[str, Any] = COLLAPSED if recorded else {}
        runs += [
            run_row(f"{backend}-0", backend=backend, seed=0, **changes),
            run_row(f"{backend}-1", backend=backend, seed=1),
        ]
        cases.append(case_row(f"{backend}-0", "sub-1", "test", dice=0.0, prediction_ml=0.0, hd95_mm=float("nan")))
        cases.append(case_row(f"{backend}-1", "sub-1", "test", dice=healthy, hd95_mm=3.0))
    runs.append(run_row("torch-0", backend="torch"))
    cases.append(case_row("torch-0", "sub-1", "test", dice=0.5))
    return summarise(load_tables(write(runs=runs, cases=cases)))


@pytest.mark.parametrize("recorded", [True, False])
def test_a_mean_of_a_collapsed_and_a_healthy_run_ranks_nothing(tables_folder: Write, recorded: bool) -> None:
    comparison = demo(tables_folder, recorded=recorded)
    assert [cell.value for cell in comparison.row("cases.test.dice").cells] == [0.717, 0.7, 0.5]
    assert comparison.row("cases.test.dice").cells[0].text == "0.717 (1 case; 1 run; 1 collapsed run left out)"
    assert [cell.n for cell in comparison.row("cases.test.hd95_mm").cells[:2]] == [1, 1]
    assert [(run.run_id, run.group, run.seed, run.to) for run in comparison.collapsed] == [
        ("jax-0", "A", 0, "nothing"),
        ("tensorflow-0", "B", 0, "nothing"),
    ]
    assert ": 0.717 (2 collapsed runs left out)." in comparison.headline
    since = "from epoch 8 on" if recorded else "in every case scored"
    assert comparison.collapsed[0].words == (
        f"predicts nothing {since}; its scores are in no average and not in the ranking"
    )


def test_the_ranking_is_given_with_the_collapsed_runs_as_well(tables_folder: Write) -> None:
    assert demo(tables_folder).notes[:2] == (
        "Ranked by the runs that did not collapse: A 0.717 (seed 1), B 0.700 (seed 1), C 0.500 (seed 0).",
        "With every run counted, by each group's median run (of an even number the worse of the middle two): "
        "C 0.500, A 0.000, B 0.000.",
    )


def test_without_a_collapse_nothing_is_said_of_one(tables_folder: Write) -> None:
    runs = [run_row("a", collapsed=False), run_row("b", seed=1)]
    cases = [case_row(run, "sub-1", "test", dice=0.0, prediction_ml=0.1) for run in ("a", "b")]
    comparison = summarise(load_tables(tables_folder(runs=runs, cases=cases)))
    assert (comparison.collapsed, comparison.notes) == ((), ())
    assert comparison.row("cases.test.dice").cells[0].text == "0.000 (1 case; runs 0.000 to 0.000 (n = 2))"


def test_a_checkpoint_of_before_the_collapse_is_named_and_counts(tables_folder: Write) -> None:
    runs = [run_row("a", **COLLAPSED | {"best_epoch": 7}), run_row("b", seed=1)]
    cases = [case_row(run, "sub-1", "test", dice=dice) for run, dice in (("a", 0.6), ("b", 0.7))]
    comparison = summarise(load_tables(tables_folder(runs=runs, cases=cases)))
    assert comparison.row("cases.test.dice").cells[0].n == 2
    (run,) = comparison.collapsed
    assert not run.scored
    assert run.words == "predicts nothing from epoch 8 on; its scores are those of epoch 7, before that, and stay in"
    by_last = [row | {"checkpoint": "last"} for row in cases]
    comparison = summarise(load_tables(tables_folder(runs=runs, cases=by_last)))
    assert comparison.collapsed[0].scored
    assert comparison.row("cases.test.dice").cells[0].n == 1


def test_a_group_whose_runs_all_collapsed_has_no_score_and_is_last(tables_folder: Write) -> None:
    runs = [run_row("a", **COLLAPSED), run_row("b", backend="torch")]
    epochs = [epoch_row("a", 1, "validation", dice=0.9), epoch_row("b", 1, "validation", dice=0.1)]
    comparison = summarise(load_tables(tables_folder(runs=runs, epochs=epochs)))
    assert [cell.text for cell in comparison.row("validation.best_dice").cells] == [
        "every run collapsed",
        "0.100 n = 1",
    ]
    assert "with torch on the CPU reached a mean best Dice of 0.100" in comparison.headline
    alone = summarise(load_tables(tables_folder(runs=runs[:1], epochs=epochs[:1])))
    assert alone.headline == "Every run that was scored collapsed, so there is nothing to compare."


def test_a_prediction_of_everything_is_a_collapse_and_one_empty_case_is_none(tables_folder: Write) -> None:
    everything = {"true_negative": 0, "false_negative": 0, "prediction_ml": 900.0}
    runs = [run_row("a"), run_row("b", seed=1)]
    cases = [case_row("a", f"sub-{n}", "test", **everything) for n in (1, 2)]
    cases += [case_row("b", "sub-1", "test", prediction_ml=0.0, true_negative=9, false_negative=1)]
    cases += [case_row("b", "sub-2", "test", prediction_ml=0.1, true_negative=9, false_negative=1)]
    comparison = summarise(load_tables(tables_folder(runs=runs, cases=cases)))
    assert [(run.run_id, run.to) for run in comparison.collapsed] == [("a", "everything")]


def test_truths_without_lesion_predicted_empty_are_no_collapse(tables_folder: Write) -> None:
    cases = [case_row("a", "sub-1", "test", truth_ml=0.0, prediction_ml=0.0, dice=float("nan"))]
    assert summarise(load_tables(tables_folder(runs=[run_row("a")], cases=cases))).collapsed == ()


def test_a_long_ranking_is_cut(tables_folder: Write) -> None:
    runs = [run_row(f"r{n:02d}", backend=f"b{n:02d}") for n in range(15)] + [run_row("x", backend="x", **COLLAPSED)]
    cases = [case_row(f"r{n:02d}", "sub-1", "test", dice=n / 100) for n in range(15)]
    cases.append(case_row("x", "sub-1", "test", dice=0.0, prediction_ml=0.0))
    ranked, everyone = summarise(load_tables(tables_folder(runs=runs, cases=cases))).notes[:2]
    assert "O 0.140 (seed 0), N 0.130 (seed 0)" in ranked
    assert ranked.endswith("D 0.030 (seed 0), and 3 more.")
    assert everyone.endswith("D 0.030, and 4 more.")
