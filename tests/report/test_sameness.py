from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mspipeline.report.comparison import Comparison
from mspipeline.report.sameness import NOT_CERTIFIED
from mspipeline.report.summary import load_tables, summarise
from tests.report.report_rows import run_row

Write = Callable[..., Path]
BACKENDS = ("jax", "pyeddl", "tensorflow")  # in the order of their groups: A, B, C


def note(sha: str, reference: str, other: str, **changes: Any) -> dict[str, Any]:
    found = {"sha256": sha, "reference": reference, "other": other, "same_graph": True, "image_shape": [64, 64, 1]}
    return {**found, "worst": "forward 6.0e-07 at conv1", **changes}


TO_JAX, TO_PYEDDL = note("1a", "tensorflow", "jax"), note("2b", "tensorflow", "pyeddl")


def run(backend: str, *notes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    row = {"backend": backend, "certificates": json.dumps(list(notes)), "uncertified": "", "problem": ""}
    return run_row(f"{backend}-{changes.get('seed', 0)}", **{**row, **changes})


def compared(write: Write, *runs: dict[str, Any]) -> Comparison:
    return summarise(load_tables(write(runs=runs)))


def cells(comparison: Comparison) -> list[str]:
    return [cell.text for cell in comparison.row("certified").cells]


def test_groups_that_share_a_certificate_are_equal_and_so_on_from_group_to_group(tables_folder: Write) -> None:
    runs = [run("tensorflow", TO_JAX, TO_PYEDDL), run("jax", TO_JAX), run("pyeddl", TO_PYEDDL)]
    comparison = compared(tables_folder, *runs)
    assert cells(comparison) == ["certified equal: B, C", "certified equal: A, C", "certified equal: A, B"]
    (said,) = comparison.notes
    assert said.startswith("Certified equal: A, B, C (unet2d (base_width=8); worst of ")
    assert "of jax against tensorflow: forward 6.0e-07 at conv1" in said
    assert "of pyeddl against tensorflow: forward 6.0e-07 at conv1" in said


def test_one_run_without_the_certificate_leaves_its_group_out_with_the_reason(tables_folder: Write) -> None:
    runs = [run("tensorflow", TO_JAX, TO_PYEDDL), run("jax", TO_JAX), run("pyeddl", TO_PYEDDL)]
    runs.append(run("pyeddl", seed=1, uncertified="x.json: made with numpy 2.4.6 (here: 2.5.0)"))
    comparison = compared(tables_folder, *runs)
    assert cells(comparison) == ["certified equal: C", "not certified", "certified equal: A"]
    assert comparison.notes[1] == (
        "Not certified: B and A/C of unet2d (base_width=8) were not proven equal. "
        "x.json: made with numpy 2.4.6 (here: 2.5.0)."
    )


def test_without_any_certificate_it_is_said_with_the_reasons(tables_folder: Write) -> None:
    comparison = compared(tables_folder, run("tensorflow", uncertified="none there"), run("jax"))
    assert comparison.notes == (f"The columns of different backends are {NOT_CERTIFIED}. none there.",)
    assert cells(comparison) == ["not certified"] * 2


def test_a_certificate_of_two_other_backends_proves_nothing(tables_folder: Write) -> None:
    comparison = compared(tables_folder, run("tensorflow", TO_PYEDDL), run("jax", TO_PYEDDL))
    assert cells(comparison) == ["not certified"] * 2


def test_another_image_size_is_said(tables_folder: Write) -> None:
    small = note("3c", "tensorflow", "jax", same_graph=False, image_shape=[48, 48, 1])
    comparison = compared(tables_folder, run("tensorflow", small), run("jax", small))
    assert "of jax against tensorflow, at 48x48x1 instead of this size: forward" in comparison.notes[0]


def test_a_backend_that_is_absent_keeps_its_column_and_says_what_brings_it(tables_folder: Write) -> None:
    why = "backend pyeddl needs pyeddl, not installed here; there is no wheel: build it"
    gone = run("pyeddl", status="failed", device="", problem=why, train_epoch_seconds=None)
    comparison = compared(tables_folder, run("tensorflow", TO_JAX), run("jax", TO_JAX), gone)
    assert [group.label for group in comparison.groups][1] == "unet2d(base_width=8), pyeddl"
    assert cells(comparison) == ["certified equal: C", "no complete run", "certified equal: A"]
    assert comparison.unfinished[0].problem == why
    assert [row.key for row in comparison.table if row.key.startswith("train_epoch_seconds")] == [
        "train_epoch_seconds.cpu"
    ]
    assert comparison.row("train_epoch_seconds.cpu").cells[1].text == "no complete run"


def test_one_backend_has_no_such_row(tables_folder: Write) -> None:
    comparison = compared(tables_folder, run("tensorflow"))
    assert "certified" not in [row.key for row in comparison.table]
