"""mspipeline.metrics.case: all scores of one case by name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mspipeline.errors import ShapeError
from mspipeline.metrics import overlap, roc
from mspipeline.metrics.case import score_case
from mspipeline.metrics.case_masks import CaseMasks
from mspipeline.metrics.lesion import lesion_rows
from mspipeline.metrics.scores import OTHER_COLUMNS, SCORES
from mspipeline.tables.schema import CASES

SPACING_MM = (1.0, 2.0, 3.0)
AFFINE_RAS = np.diag([1.0, 2.0, 3.0, 1.0])
Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
COUNTS = ("true_positive", "true_negative", "truth_lesions_6", "predicted_lesions_6", "msseg2016_truth_lesions")


def case_scores(truth: Mask, prediction: Mask, **known: Any) -> dict[str, Any]:
    return score_case(CaseMasks(truth, prediction, **known))[0]


def drawn() -> tuple[Mask, Mask]:
    truth, prediction = np.zeros((20, 20, 20), bool), np.zeros((20, 20, 20), bool)
    truth[2:6, 2:6, 2:6] = truth[12:14, 12:14, 12:14] = True  # 64 and 8 voxels of 6 mm^3
    truth[14, 14, 13] = True  # by an edge to the second: one lesion of 18-connected neighbours, two of 6
    prediction[3:7, 2:6, 2:6] = prediction[0, 19, 19] = True
    return truth, prediction


def test_scores_of_a_hand_drawn_case() -> None:
    truth, prediction = drawn()
    scores = case_scores(truth, prediction, spacing_mm=SPACING_MM, affine_ras=AFFINE_RAS, probability=prediction * 0.9)
    tp, fp, fn, tn = 48, 17, 25, 8000 - 90
    hand = {
        "dice": 96 / 138,
        "mean_iou": (48 / 90 + tn / (tn + fp + fn)) / 2,
        "mean_pixel_accuracy": (48 / 73 + tn / (tn + fp)) / 2,
        "true_positive": tp,
        "truth_ml": 73 * 0.006,
        "prediction_ml": 65 * 0.006,
        "ndsc_shifts": 96 / (0.999 * 73 / (0.001 * (8000 - 73)) * 17 + 96 + 25),
        "truth_lesions_6": 3,
        "predicted_lesions_6": 2,
        "msseg2016_truth_lesions": 3,  # a voxel has 6 mm^3
        "msseg2016_sensl": 1 / 3,
        "msseg2016_ppvl": 1 / 2,
        "msseg2016_f1": 0.4,
        "isbi2015_ltpr_18": 1 / 2,
        "isbi2015_lfpr_18": 1 / 2,
        "roc_auc": roc.roc_auc(truth, prediction.astype(float)),
    }
    assert {name: scores[name] for name in hand} == pytest.approx(hand)
    # From (13, 13, 12) of the missed lesion to (6, 5, 5): (7, 8, 7) steps; every other voxel has a nearer one
    assert scores["hausdorff_mm"] == pytest.approx(math.hypot(7, 16, 21))


def test_rows_and_scores_are_those_of_the_single_functions() -> None:
    truth, prediction = drawn()
    masks = CaseMasks(truth, prediction, spacing_mm=SPACING_MM, affine_ras=AFFINE_RAS)
    scores, rows = score_case(masks)
    assert rows == lesion_rows(truth, prediction, spacing_mm=SPACING_MM, affine_ras=AFFINE_RAS)
    assert scores["volume_error_percent"] == overlap.volume_error_percent(overlap.count(truth, prediction))
    assert str(scores["roc_auc"]) == "nan"


def test_a_case_has_the_same_columns_whatever_is_in_it() -> None:
    truth, prediction = drawn()
    nothing = np.zeros_like(truth)
    rows = [
        case_scores(*masks, spacing_mm=SPACING_MM, affine_ras=AFFINE_RAS)
        for masks in ((truth, prediction), (truth, nothing), (nothing, prediction), (nothing, nothing))
    ]
    assert all(list(row) == list(rows[0]) for row in rows)
    assert all(type(row[name]) is int for row in rows for name in COUNTS)
    assert all(type(value) in (int, float) for row in rows for value in row.values())
    assert not any(math.isinf(value) for row in rows for value in row.values())


def test_of_a_label_whose_components_are_not_counted_only_their_scores_are_unknown() -> None:
    truth, prediction = drawn()
    masks = CaseMasks(truth, prediction, spacing_mm=SPACING_MM, affine_ras=AFFINE_RAS, probability=prediction * 0.9)
    counted, rows = score_case(masks)
    scores, none = score_case(masks, count_components=False)
    assert len(rows) == 5
    assert none == []
    unknown = {name for name, value in scores.items() if value != counted[name]}
    assert unknown == {
        "truth_lesions_6",
        "predicted_lesions_6",
        "msseg2016_truth_lesions",
        "msseg2016_predicted_lesions",
        "msseg2016_predicted_ml",
        "msseg2016_sensl",
        "msseg2016_ppvl",
        "msseg2016_f1",
        "isbi2015_ltpr_18",
        "isbi2015_lfpr_18",
    }
    counts = {name for name in unknown if scores[name] is None}
    assert counts == {name for name in unknown if name.endswith(("_lesions", "_lesions_6"))}
    assert all(math.isnan(scores[name] or 0.0) for name in unknown - counts)
    assert all("Only of labels whose components are counted" in SCORES[name].definition for name in unknown)


def test_a_flip_of_the_grid_changes_nothing_but_what_anima_prints() -> None:
    truth, prediction = drawn()
    scores = case_scores(truth, prediction, spacing_mm=SPACING_MM, affine_ras=AFFINE_RAS)
    flipped = case_scores(truth[:, ::-1], prediction[:, ::-1], spacing_mm=SPACING_MM, affine_ras=AFFINE_RAS)
    del scores["asd_anima_mm"], flipped["asd_anima_mm"]
    assert flipped == pytest.approx(scores, nan_ok=True)


def test_masks_that_do_not_fit_are_refused() -> None:
    truth, prediction = drawn()
    with pytest.raises(ShapeError, match="back to the grid"):
        case_scores(truth, prediction[:-1], spacing_mm=SPACING_MM, affine_ras=AFFINE_RAS)
    with pytest.raises(ValueError, match="is not that of the affine"):
        case_scores(truth, prediction, spacing_mm=(1, 1, 1), affine_ras=AFFINE_RAS)
    with pytest.raises(ShapeError, match="one grid"):
        case_scores(truth, prediction, spacing_mm=SPACING_MM, affine_ras=AFFINE_RAS, probability=np.zeros((2, 2, 2)))


def test_the_names_of_other_columns_are_those_of_the_table() -> None:
    assert set(CASES.names) - set(SCORES.built_in) == OTHER_COLUMNS
