from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mspipeline.report.case_rows import case_scores, scored_rows
from mspipeline.report.comparison import Cell
from mspipeline.report.summary import NOT_CERTIFIED, Comparison, load_tables, summarise
from tests.report.report_rows import case_row, epoch_row, run_row, sample_row

Write = Callable[..., Path]
NAN = float("nan")


def compare(folder: Path) -> Comparison:
    return summarise(load_tables(folder))


def cell(folder: Path, key: str) -> Cell:
    return compare(folder).row(key).cells[0]


def gpu(second: float, epoch: int, device: str = "g", **reading: Any) -> dict[str, Any]:
    return sample_row("a", second, "train", epoch=epoch, scope="gpu", device_uuid=device, **reading)


def test_two_seeds_give_mean_and_sample_deviation(tables_folder: Write) -> None:
    runs = [run_row("a", train_epoch_seconds=20.0), run_row("b", seed=1, train_epoch_seconds=26.0)]
    found = cell(tables_folder(runs=runs), "train_epoch_seconds.cpu")
    assert found.value == 23.0
    assert found.sd == pytest.approx(math.sqrt(18))  # (3^2 + 3^2) / (2 - 1)
    assert found.text == "23.0 s ± 4.2 s, n = 2"


def test_one_seed_has_no_deviation(tables_folder: Write) -> None:
    found = cell(tables_folder(runs=[run_row("a", train_epoch_seconds=1920.0)]), "train_epoch_seconds.cpu")
    assert (found.sd, found.n, found.text) == (None, 1, "32.0 min n = 1")


def test_failed_and_unfinished_runs_are_listed_and_never_averaged(tables_folder: Write) -> None:
    runs = [run_row("a", train_epoch_seconds=20.0)]
    runs += [
        run_row(state, seed=9, status=state, train_epoch_seconds=900.0)
        for state in ("failed", "running", "interrupted")
    ]
    epochs = [epoch_row("a", 1, "validation", dice=0.5), epoch_row("failed", 1, "validation", dice=0.99)]
    cases = [case_row("a", "sub-01", "test", dice=0.5), case_row("failed", "sub-02", "test", dice=0.99)]
    comparison = compare(tables_folder(runs=runs, epochs=epochs, cases=cases))
    assert comparison.row("train_epoch_seconds.cpu").cells[0].value == 20.0
    assert comparison.row("validation.best_dice").cells[0].value == 0.5
    assert comparison.row("cases.test.dice").cells[0].n == 1
    assert [run.status for run in comparison.unfinished] == ["failed", "interrupted", "running"]
    assert comparison.groups[0].started == 4
    assert comparison.groups[0].seeds == (0,)


def test_a_group_without_complete_runs_keeps_its_column(tables_folder: Write) -> None:
    comparison = compare(tables_folder(runs=[run_row("a"), run_row("b", backend="torch", status="failed")]))
    assert [group.backend for group in comparison.groups] == ["tensorflow", "torch"]
    assert comparison.row("trainable_parameters").cells[1] == Cell(None, "no complete run")


def test_the_best_epoch_of_each_run_is_averaged_and_nan_is_no_score(tables_folder: Write) -> None:
    epochs = [epoch_row("a", number, "validation", dice=dice) for number, dice in enumerate((0.4, NAN, 0.7, None), 1)]
    epochs += [epoch_row("b", number, "validation", dice=dice) for number, dice in enumerate((0.5, 0.1), 1)]
    epochs += [epoch_row("a", 1, "train", dice=0.95)]
    folder = tables_folder(runs=[run_row("a"), run_row("b", seed=1)], epochs=epochs)
    assert cell(folder, "validation.best_dice").value == pytest.approx(0.6)
    assert cell(folder, "train.best_dice").text == "0.950 n = 1 of 2"
    assert cell(folder, "validation.best_dice_slice_soft_smooth1").value is None


def test_the_best_dice_of_a_cascade_is_that_of_its_last_stage(tables_folder: Write) -> None:
    epochs = [epoch_row("a", epoch, "validation", stage=1 + (epoch > 2), dice=1 - epoch / 10) for epoch in (1, 2, 3, 4)]
    epochs += [epoch_row("b", 1, "validation", dice=0.4)]
    folder = tables_folder(runs=[run_row("a"), run_row("b", backend="torch")], epochs=epochs)
    assert [each.value for each in summarise(load_tables(folder)).row("validation.best_dice").cells] == [0.7, 0.4]


def test_lesion_rows_are_of_the_most_held_out_subset_and_leave_undefined_cases_out(tables_folder: Write) -> None:
    cases = [
        case_row("a", f"sub-{number}", subset, msseg2016_f1=f1, hd95_mm=mm)
        for number, (subset, f1, mm) in enumerate(
            [("test", 0.2, 30.0), ("test", 0.6, 10.0), ("test", float("nan"), 20.0), ("validation", 0.9, 1.0)]
        )
    ]
    tables = tables_folder(runs=[run_row("a")], cases=cases)
    found = cell(tables, "cases.test.msseg2016_f1")
    assert (found.value, found.low, found.high, found.n) == (pytest.approx(0.4), 0.2, 0.6, 2)
    assert found.text == "0.400 (cases 0.200 to 0.600 (n = 2); 1 run; 2 of 3 scores defined)"
    assert cell(tables, "cases.test.hd95_mm").main == "20.0"


def test_held_out_dice_gives_the_spread_over_cases_and_over_runs_apart(tables_folder: Write) -> None:
    dice = {("a", "1"): 0.2, ("b", "1"): 0.4, ("a", "2"): 0.9, ("b", "2"): 0.7, ("a", "3"): 0.5, ("b", "3"): NAN}
    cases = [case_row(run, f"sub-{case}", "test", dice=value) for (run, case), value in dice.items()]
    cases += [case_row("a", "sub-4", "test", dice=NAN), case_row("a", "sub-5", "validation", dice=0.99)]
    cases += [case_row("a", "sub-6", "test", dice=0.99, grid="training")]
    found = cell(tables_folder(runs=[run_row("a"), run_row("b", seed=1)], cases=cases), "cases.test.dice")
    assert found.value == pytest.approx(0.525)  # run a: 0.2, 0.5, 0.9, median 0.5; run b: 0.4, 0.7, median 0.55
    assert [found.run_low, found.run_high] == pytest.approx([0.5, 0.55])
    assert [found.low, found.high] == pytest.approx([0.3, 0.8])  # means over runs: 0.3, 0.8, 0.5
    assert (found.n, found.cases) == (5, 3)  # 7 scores, of which sub-3 in run b and sub-4 in run a are undefined
    assert found.text == ("0.525 (cases 0.300 to 0.800 (n = 3); runs 0.500 to 0.550 (n = 2); 5 of 7 scores defined)")


def test_one_case_has_no_spread_over_cases_and_no_interval(tables_folder: Write) -> None:
    cases = [case_row(run, "sub-1", "test", dice=dice) for run, dice in (("a", 0.7), ("b", 0.74))]
    found = cell(tables_folder(runs=[run_row("a"), run_row("b", seed=1)], cases=cases), "cases.test.dice")
    assert found.text == "0.720 (1 case; runs 0.700 to 0.740 (n = 2))"
    assert found.sd is None


def test_n_is_the_number_of_defined_values(tables_folder: Write) -> None:
    cases = [case_row(run, "sub-1", "test", hd95_mm=mm) for run, mm in (("a", NAN), ("b", 3.0))]
    folder = tables_folder(runs=[run_row("a"), run_row("b", seed=1)], cases=cases)
    found = cell(folder, "cases.test.hd95_mm")
    assert (found.value, found.n, found.cases) == (3.0, 1, 1)
    assert found.text == "3.0 (1 case; 1 run; 1 of 2 scores defined)"
    assert cell(folder, "cases.test.dice").n == 2
    tables = load_tables(folder)
    (row,) = case_scores(scored_rows(tables, summarise(tables).groups)).to_pylist()
    assert (row["hd95_mm"], row["hd95_mm_defined"], row["runs"]) == (3.0, 1, 2)


def test_of_a_run_scored_by_two_checkpoints_the_best_counts(tables_folder: Write) -> None:
    cases = [
        case_row("a", "sub-1", "test", dice=dice, checkpoint=name) for name, dice in (("last", 0.2), ("best", 0.8))
    ]
    cases += [case_row("b", "sub-1", "test", dice=0.6, checkpoint="last")]
    found = cell(tables_folder(runs=[run_row("a"), run_row("b", seed=1)], cases=cases), "cases.test.dice")
    assert [found.run_low, found.run_high, found.n] == [0.6, 0.8, 2]


def test_runs_scored_by_their_last_checkpoint_alone_are_named(tables_folder: Write) -> None:
    runs = [run_row("a"), run_row("b", seed=1), run_row("c", backend="jax")]
    cases = [
        case_row(run, "sub-1", "test", dice=0.5, checkpoint=checkpoint)
        for run, checkpoint in (("a", "last"), ("a", "best"), ("b", "last"), ("c", "last"))
    ]
    notes = [note for note in summarise(load_tables(tables_folder(runs=runs, cases=cases))).notes if "scored" in note]
    assert sorted(notes) == [
        "1 of 2 runs of group B: scored by the last checkpoint, other runs by their best; "
        "`mspipeline evaluate` scores the best.",
        "Group A: scored by the last checkpoint; `mspipeline evaluate` scores the best.",
    ]


def test_case_scores_put_test_cases_first(tables_folder: Write) -> None:
    cases = [case_row("a", name, subset) for name, subset in (("1", "train"), ("2", "validation"), ("3", "test"))]
    tables = load_tables(tables_folder(runs=[run_row("a")], cases=cases))
    scores = case_scores(scored_rows(tables, summarise(tables).groups))
    assert scores["case"].to_pylist() == ["3", "2", "1"]
    assert scores["runs"].to_pylist() == [1, 1, 1]


def test_readings_are_averaged_by_phase_and_a_failed_reading_is_no_zero(tables_folder: Write) -> None:
    readings: list[dict[str, Any]] = [
        {"cpu_utilization_percent": 300.0, "cpu_utilization_ratio": 0.75, "rss_bytes": 1_000_000_000},
        {"cpu_utilization_percent": 100.0, "cpu_utilization_ratio": 0.25, "rss_bytes": 3_000_000_000},
        {"cpu_utilization_percent": None, "cpu_utilization_ratio": NAN, "rss_bytes": None},
    ]
    samples = [sample_row("a", second, "train", **reading) for second, reading in enumerate(readings)]
    samples.append(sample_row("a", 9, "validation", cpu_utilization_percent=50.0))
    samples.append(sample_row("a", 10, None, cpu_utilization_percent=1e6))
    folder = tables_folder(runs=[run_row("a")], samples=samples)
    assert cell(folder, "train.cpu_percent").value == 200.0
    assert cell(folder, "train.cpu_allocated_percent").value == 50.0
    assert cell(folder, "train.rss_gb").value == 2.0
    assert cell(folder, "train.rss_peak_gb").value == 3.0
    assert cell(folder, "validation.cpu_percent").value == 50.0
    assert cell(folder, "evaluate.cpu_percent") == Cell(None, "not measured")


def test_gpu_rows_are_not_measured_where_there_is_no_gpu(tables_folder: Write) -> None:
    comparison = compare(tables_folder(runs=[run_row("a")], samples=[sample_row("a", 0, "train", rss_bytes=1)]))
    names = ("gpu_percent", "gpu_memory_percent", "gpu_memory_busy_percent")
    rows = [comparison.row(f"train.{name}") for name in names] + [comparison.row("energy_per_epoch_kj")]
    assert [row.cells[0] for row in rows] == [Cell(None, "not measured")] * 4


def test_gpu_memory_in_use_and_controller_busy_are_two_rows(tables_folder: Write) -> None:
    busy: dict[str, Any] = {"gpu_utilization_ratio": 0.97, "gpu_memory_bandwidth_busy_ratio": 0.5}
    memory = [(4, 16), (8, 16), (8, 0)]  # a GPU that reports no total has no share
    samples = [
        gpu(second, 1, gpu_memory_used_bytes=used, gpu_memory_total_bytes=total, **busy)
        for second, (used, total) in enumerate(memory)
    ]
    folder = tables_folder(runs=[run_row("a")], samples=samples)
    assert cell(folder, "train.gpu_memory_percent").value == pytest.approx(37.5)
    assert cell(folder, "train.gpu_memory_busy_percent").value == pytest.approx(50)
    assert cell(folder, "train.gpu_percent").value == pytest.approx(97)


def test_energy_comes_from_the_counter_within_epochs(tables_folder: Write) -> None:
    counter = [(0, 1, 0.0), (10, 1, 1000.0), (60, 2, 1100.0), (70, 2, 1700.0)]  # 1600 J in 20 s of training: 80 W
    samples = [gpu(second, epoch, gpu_energy_joules_total=joules) for second, epoch, joules in counter]
    epochs = [epoch_row("a", number, "train", seconds=12.5) for number in (1, 2)]
    found = cell(tables_folder(runs=[run_row("a")], epochs=epochs, samples=samples), "energy_per_epoch_kj")
    assert found.value == pytest.approx(1.0)


def test_energy_is_summed_over_gpus_and_unknown_where_one_gave_nothing(tables_folder: Write) -> None:
    samples = [gpu(second, 1, device, gpu_power_watts=50.0) for second in (0, 1) for device in ("g", "h")]
    epochs = [epoch_row("a", 1, "train", seconds=20.0)]
    assert cell(tables_folder(runs=[run_row("a")], epochs=epochs, samples=samples), "energy_per_epoch_kj").value == 2.0
    samples.append(gpu(2, 1, "silent"))
    assert cell(tables_folder(runs=[run_row("a")], epochs=epochs, samples=samples), "energy_per_epoch_kj").value is None


def test_images_per_second_divides_sums_and_skips_epochs_without_a_time(tables_folder: Write) -> None:
    epochs = [
        epoch_row("a", 1, "train", images=100, seconds=30.0),
        epoch_row("a", 2, "train", images=100, seconds=10.0),
        epoch_row("a", 3, "train", images=100, seconds=None),
        epoch_row("a", 1, "validation", images=900, seconds=1.0),
    ]
    assert cell(tables_folder(runs=[run_row("a")], epochs=epochs), "train.images_per_second").value == 5.0


def test_two_backends_are_not_certified_and_two_devices_have_times_of_their_own(tables_folder: Write) -> None:
    comparison = compare(tables_folder(runs=[run_row("a"), run_row("b", backend="torch", device="gpu")]))
    assert comparison.notes[0].endswith(f"are {NOT_CERTIFIED}.")
    assert [found.text for found in comparison.row("train_epoch_seconds.cpu").cells] == ["20.0 s n = 1", "ran on GPU"]
    assert [found.text for found in comparison.row("train_epoch_seconds.gpu").cells] == ["ran on CPU", "20.0 s n = 1"]


def test_one_backend_needs_no_certificate(tables_folder: Write) -> None:
    assert compare(tables_folder(runs=[run_row("a"), run_row("b", seed=1)])).notes == ()


def test_runs_of_two_datasets_are_two_groups_and_said_not_to_be_comparable(tables_folder: Write) -> None:
    comparison = compare(tables_folder(runs=[run_row("a"), run_row("b", dataset_hash="ee" * 32)]))
    assert len(comparison.groups) == 2
    assert "2 different datasets" in comparison.notes[0]
    assert comparison.groups[1].label.endswith("data eeeeee/4e4e4e")


def test_runs_of_one_seed_with_other_settings_are_pointed_out(tables_folder: Write) -> None:
    comparison = compare(tables_folder(runs=[run_row("a"), run_row("b", config_hash="ff" * 32)]))
    assert comparison.notes == ("Group A holds runs of one seed whose configurations differ.",)


def test_the_headline_names_the_best_group_and_its_epoch_time(tables_folder: Write) -> None:
    runs = [run_row("a"), run_row("b", backend="torch", train_epoch_seconds=90.0)]
    cases = [case_row("a", "sub-01", "test", dice=0.6), case_row("b", "sub-01", "test", dice=0.7)]
    assert compare(tables_folder(runs=runs, cases=cases)).headline == (
        "Of 2 groups, unet2d (base_width=8) with torch on the CPU had the highest median Dice on 1 held-out test case: "
        "0.700. One of its training epochs took 90.0 s (the fastest group's: 20 s). "
        "The difference between groups was not tested for significance, "
        "and one case cannot show which network is better."
    )


def test_the_headline_says_when_the_ranges_over_runs_overlap(tables_folder: Write) -> None:
    runs = [run_row(f"{b}{seed}", backend=b, seed=seed) for b in ("jax", "torch") for seed in (0, 1)]
    dice = {"jax0": 0.6, "jax1": 0.7, "torch0": 0.65, "torch1": 0.8}
    cases = [case_row(run, f"sub-{n}", "test", dice=value) for run, value in dice.items() for n in (1, 2)]
    words = "not tested for significance, and their ranges over runs overlap."
    assert compare(tables_folder(runs=runs, cases=cases)).headline.endswith(words)
    apart = [row | {"dice": 0.71} if row["run_id"] == "torch0" else row for row in cases]
    assert compare(tables_folder(runs=runs, cases=apart)).headline.endswith("not tested for significance.")


def test_the_headline_says_when_nothing_completed_or_was_scored(tables_folder: Write) -> None:
    assert compare(tables_folder(runs=[])).headline.startswith("No run completed (the tables hold no run)")
    folder = tables_folder(runs=[run_row("a", status="failed"), run_row("b", status="running")])
    assert compare(folder).headline.startswith("No run completed (1 failed, 1 running)")
    assert "mspipeline evaluate" in compare(tables_folder(runs=[run_row("a")])).headline


def test_json_and_rows_hold_the_whole_table(campaign: Path) -> None:
    comparison = compare(campaign)
    document = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    rows = comparison.rows()
    assert rows[0] == ["", "A: unet2d(base_width=8), tensorflow, CPU", "B: unet2d(base_width=8), torch, GPU"]
    assert [row[0] for row in rows[1:]] == [row["name"] for row in document["table"]]
    assert all(len(row) == 3 for row in rows)
    assert all(row["definition"] for row in document["table"])


def test_parameters_that_differ_within_a_group_are_a_range(tables_folder: Write) -> None:
    runs = [run_row("a", trainable_parameters=31_031_685), run_row("b", seed=1, trainable_parameters=31_060_241)]
    found = cell(tables_folder(runs=runs), "trainable_parameters")
    assert (found.value, found.text) == (None, "31,031,685 to 31,060,241")


def test_runs_whose_telemetry_is_incomplete_are_named(tables_folder: Write) -> None:
    runs = [run_row(name, seed=n, telemetry_complete=n > 0 or None) for n, name in enumerate(("a", "b"))]
    assert compare(tables_folder(runs=runs)).notes == ()
    torn = [run_row(f"r{seed}", seed=seed, telemetry_complete=False) for seed in range(6)]
    words = "Telemetry of 6 runs is incomplete; hardware rows are of what is left: r0, r1, r2, r3, ..."
    assert compare(tables_folder(runs=torn)).notes == (words,)
    words = "Telemetry of 1 run is incomplete; hardware rows are of what is left: r0."
    assert compare(tables_folder(runs=torn[:1])).notes == (words,)


def of_labels(run: str, case: str, *dice: float) -> list[dict[str, Any]]:
    """Rows of two labels and of the region that unites them."""
    names = (("anterior", None), ("posterior", None), ("whole", "anterior + posterior"))
    return [
        case_row(run, case, "test", label=label, united=united, dice=value, msseg2016_f1=None, hd95_mm=3.0)
        for (label, united), value in zip(names, dice, strict=True)
    ]


def test_groups_of_several_labels_are_ranked_by_the_mean_over_labels_without_regions(tables_folder: Write) -> None:
    runs = [run_row("a"), run_row("b", model="vnet")]
    cases = [*of_labels("a", "sub-01", 0.8, 0.6, 0.99), *of_labels("b", "sub-01", 0.9, NAN, 0.1)]
    comparison = compare(tables_folder(runs=runs, cases=cases))
    mean = comparison.row("cases.test.dice")
    assert mean.name == "Held-out cases (test): Dice on the scan's own grid, mean over 2 labels"
    assert "the mean over its labels (anterior, posterior) where that is defined" in mean.definition
    assert [cell.value for cell in mean.cells] == pytest.approx([0.7, 0.9])
    assert [cell.value for cell in comparison.row("cases.test.dice.whole").cells] == pytest.approx([0.99, 0.1])
    assert [cell.value for cell in comparison.row("cases.test.dice.posterior").cells] == [0.6, None]
    assert comparison.headline.startswith("Of 2 groups, vnet (base_width=8) with tensorflow on the CPU had the highest")
    assert "median mean Dice over labels on 1 held-out test case: 0.900" in comparison.headline
    assert {row.key for row in comparison.table if row.section == "Lesions and surfaces"} == {
        f"cases.test.hd95_mm.{label}" for label in ("anterior", "posterior", "whole")
    }
