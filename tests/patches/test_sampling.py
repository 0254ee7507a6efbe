"""Which voxels are drawn, counted by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mspipeline.errors import ShapeError
from mspipeline.patches.sampling import (
    CaseVoxels,
    PatchSelection,
    first_stage,
    hard_negatives,
    held_out,
)

LESIONS = np.array([[5, 5, 5], [5, 5, 6], [5, 5, 7]], np.int32)
"""The first of them is too dark to be a candidate."""
CANDIDATES = np.concatenate([[[x, 1, 2] for x in range(10)], LESIONS[1:]]).astype(np.int32)
LABELS = np.array([0] * 10 + [1] * 2, np.uint8)
CASE = CaseVoxels(CANDIDATES, LABELS, LESIONS)
HEALTHY = CaseVoxels(CANDIDATES[:10], LABELS[:10], np.empty((0, 3), np.int32))


def negatives(patches: PatchSelection) -> list[int]:
    """x of the negatives: they are (x, 1, 2)."""
    centres = patches.centres[patches.labels == 0]
    assert (centres[:, 1:] == (1, 2)).all()
    return centres[:, 0].tolist()


def test_all_lesion_voxels_are_drawn_and_as_many_others_without_replacement() -> None:
    patches = first_stage(CASE, case="sub-01", seed=0)
    assert len(patches) == 6
    assert np.array_equal(patches.centres[patches.labels == 1], LESIONS)
    assert len(set(negatives(patches))) == 3
    assert (patches.centres.dtype, patches.labels.dtype) == (np.int32, np.uint8)


def test_no_lesion_voxel_is_ever_a_negative_and_every_other_candidate_may_be() -> None:
    drawn = [x for seed in range(60) for x in negatives(first_stage(CASE, case="sub-01", seed=seed))]
    assert sorted(set(drawn)) == list(range(10))


@pytest.mark.parametrize(("multiple", "drawn"), [(2.0, 6), (0.5, 2), (1.4, 4), (9.0, 10)])
def test_negatives_are_a_multiple_of_the_lesion_voxels_as_far_as_there_are_any(multiple: float, drawn: int) -> None:
    assert len(negatives(first_stage(CASE, case="sub-01", seed=0, negatives=multiple))) == drawn


def test_the_unbalanced_form_draws_the_same_number_of_every_case() -> None:
    assert len(negatives(first_stage(CASE, case="sub-01", seed=0, count=8))) == 8


def test_a_case_without_lesions_gives_no_patch() -> None:
    assert len(first_stage(HEALTHY, case="sub-01", seed=0, count=8)) == 0
    assert first_stage(HEALTHY, case="sub-01", seed=0).centres.shape == (0, 3)
    scores = np.ones(10, np.float32)
    assert len(hard_negatives(HEALTHY, scores, scores, case="sub-01", seed=0)) == 0


def test_a_case_without_candidates_has_its_lesion_voxels_alone() -> None:
    dark = CaseVoxels(np.empty((0, 3), np.int32), np.empty(0, np.uint8), LESIONS)
    assert first_stage(dark, case="sub-01", seed=0).labels.tolist() == [1, 1, 1]
    none = np.empty(0, np.float32)
    assert hard_negatives(dark, none, none, case="sub-01", seed=0).labels.tolist() == [1, 1, 1]


def test_a_draw_depends_on_seed_and_case_alone_in_any_process() -> None:
    drawn = negatives(first_stage(CASE, case="sub-01", seed=3))
    assert negatives(first_stage(CASE, case="sub-01", seed=3)) == drawn
    assert any(negatives(first_stage(CASE, case=f"sub-{k:02d}", seed=3)) != drawn for k in range(2, 6))
    assert any(negatives(first_stage(CASE, case="sub-01", seed=seed)) != drawn for seed in range(4, 8))
    program = (
        "import numpy as np\n"
        "from mspipeline.patches.sampling import CaseVoxels, first_stage\n"
        "places = np.array([[x, 1, 2] for x in range(10)], np.int32)\n"
        "case = CaseVoxels(places, np.zeros(10, np.uint8), np.ones((3, 3), np.int32))\n"
        "print(first_stage(case, case='sub-01', seed=3).centres[3:, 0].tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == str(drawn)


def test_hard_negatives_are_those_that_the_first_stage_took_for_lesion() -> None:
    probability = np.array([0.9, 0.5, 0.51, 0.1, 0, 0, 0, 0, 0, 0.99, 0.9, 0.9], np.float32)
    patches = hard_negatives(CASE, probability, np.zeros(12, np.float32), case="sub-01", seed=0)
    assert negatives(patches) == [0, 2, 9]
    assert np.array_equal(patches.centres[patches.labels == 1], LESIONS)
    higher = hard_negatives(CASE, probability, np.zeros(12, np.float32), case="sub-01", seed=0, above=0.95)
    assert negatives(higher) == [9]


def test_where_none_passed_the_brightest_are_drawn_from() -> None:
    bright = np.array([2.1, 2.0, 0, 0, 3, 0, 0, 0, 0, 0, 5, 5], np.float32)
    patches = hard_negatives(CASE, np.zeros(12, np.float32), bright, case="sub-01", seed=0)
    assert negatives(patches) == [0, 4]


def test_where_lesions_alone_passed_there_is_no_hard_negative() -> None:
    probability = (LABELS * 0.9).astype(np.float32)
    patches = hard_negatives(CASE, probability, np.full(12, 9, np.float32), case="sub-01", seed=0)
    assert patches.labels.tolist() == [1, 1, 1]


def test_scores_that_are_not_one_a_candidate_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"sub-01: \(11,\) probabilities .* each of 12 candidates"):
        hard_negatives(CASE, np.zeros(11, np.float32), np.zeros(12, np.float32), case="sub-01", seed=0)


def test_held_out_patches_are_a_quarter_of_each_case_and_the_rest_is_trained_on() -> None:
    selection = {
        case: PatchSelection(np.arange(3 * n, dtype=np.int32).reshape(n, 3), (np.arange(n) % 2).astype(np.uint8))
        for case, n in (("a", 8), ("b", 2), ("c", 0))
    }
    train, held = held_out(selection, 0.25, seed=1)
    assert [len(train[case]) for case in "abc"] == [6, 1, 0]
    assert [len(held[case]) for case in "abc"] == [2, 1, 0]
    for case in "ab":
        together = np.concatenate([train[case].centres, held[case].centres])
        assert sorted(together[:, 0].tolist()) == selection[case].centres[:, 0].tolist()
        for part in (train[case], held[case]):  # each keeps its own label
            assert (part.labels == part.centres[:, 0] // 3 % 2).all()
    drawn = {tuple(held_out(selection, 0.25, seed=seed)[1]["a"].centres[:, 0].tolist()) for seed in range(20)}
    assert len(drawn) > 5
    assert held_out(selection, 0, seed=1)[0]["a"].centres.tolist() == selection["a"].centres.tolist()
    with pytest.raises(ValueError, match=r"fraction 1\.0"):
        held_out(selection, 1.0, seed=1)
