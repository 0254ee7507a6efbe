import json
import math

import numpy as np
import pytest

from mspipeline.labels import LabelSet
from mspipeline.training.scores import EpochScores


def batch(*slices: list[list[float]]) -> np.ndarray:
    return np.array(slices, np.float32)[..., None]  # (N, 1, W) -> (N, 1, W, 1)


def found(*slices: list[list[float]]) -> dict[str, np.ndarray]:
    return {"lesion": np.array(slices, np.float32)}  # (N, 1, W)


def filled() -> EpochScores:
    scores = EpochScores(cases=3, threshold=0.5)
    # Case 0 over two slices: 1 true positive, 1 false positive, 1 false negative. Case 1: nothing anywhere.
    scores.add(np.array([0, 1]), batch([[1, 0, 0]], [[0, 0, 0]]), found([[0.9, 0.6, 0.1]], [[0.1, 0.2, 0.3]]), 0.5)
    scores.add(np.array([0]), batch([[1, 0, 0]]), found([[0.4, 0.0, 0.0]]), 0.2)
    return scores


def test_dice_is_of_each_case_and_undefined_where_there_is_nothing() -> None:
    dice = filled().case_dice("lesion")
    assert dice[0] == pytest.approx(2 / 4)
    assert math.isnan(dice[1])
    assert math.isnan(dice[2])
    summary = filled().summary()
    assert summary["dice"] == pytest.approx(0.5)
    assert summary["dice_undefined_cases"] == 2


def test_the_loss_is_the_mean_over_images_not_over_batches() -> None:
    assert filled().summary()["loss"] == pytest.approx((0.5 * 2 + 0.2) / 3)
    assert filled().summary()["images"] == 3


def test_slice_dice_in_both_of_the_reports_forms() -> None:
    summary = filled().summary()
    hard = [(2 + 1) / (1 + 2 + 1), 1.0, (0 + 1) / (1 + 0 + 1)]
    soft = [(2 * 0.9 + 1) / (1 + 1.6 + 1), 1 / (0.6 + 1), (2 * 0.4 + 1) / (1 + 0.4 + 1)]
    assert summary["dice_slice_hard_smooth1"] == pytest.approx(np.mean(hard))
    assert summary["dice_slice_soft_smooth1"] == pytest.approx(np.mean(soft), rel=1e-6)


def test_scores_go_on_from_their_json() -> None:
    scores = EpochScores(cases=3, threshold=0.5)
    scores.restore(json.loads(json.dumps(filled().to_json())))
    again = filled()
    for each in (scores, again):
        each.add(np.array([2]), batch([[1, 1, 1]]), found([[0.7, 0.7, 0.2]]), 0.1)
    assert scores.summary() == again.summary()
    assert scores.running_dice == again.running_dice == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))


def test_a_pass_without_lesions_has_no_dice() -> None:
    scores = EpochScores(cases=1, threshold=0.5)
    scores.add(np.array([0]), batch([[0, 0]]), found([[0.1, 0.1]]), 0.1)
    assert math.isnan(scores.summary()["dice"])


def test_with_several_labels_dice_is_the_mean_over_labels_of_their_means_over_cases() -> None:
    labels = LabelSet(("background", "a", "b"))
    scores = EpochScores(cases=3, threshold=0.5, labels=labels)
    truth = batch([[1, 1, 2, 0]], [[0, 0, 2, 2]])
    a, b = np.array([[[0.9, 0.1, 0.1, 0.6]], [[0, 0, 0, 0]]], np.float32), np.zeros((2, 1, 4), np.float32)
    b[0, 0, 2] = b[1, 0, 2] = 0.8
    found = {"background": 1 - a - b, "a": a, "b": b}
    scores.add(np.array([0, 1]), truth, found, 0.5)
    # a: 1 of 2 found, 1 wrong, in case 0 alone; b: all of 1 in case 0, 1 of 2 in case 1; case 2 has nothing.
    assert scores.case_dice("a")[0] == pytest.approx(0.5)
    assert math.isnan(scores.case_dice("a")[1])
    assert scores.case_dice("b")[:2] == pytest.approx([1.0, 2 / 3])
    summary = scores.summary()
    assert summary["dice"] == pytest.approx((0.5 + (1 + 2 / 3) / 2) / 2)
    assert summary["dice_undefined_cases"] == 1
    assert scores.running_dice == pytest.approx((0.5 + 2 * 2 / (2 * 2 + 1)) / 2)
    hard = [((2 + 1) / (2 + 2 + 1) + 1.0) / 2, (1.0 + (2 + 1) / (1 + 2 + 1)) / 2]
    assert summary["dice_slice_hard_smooth1"] == pytest.approx(np.mean(hard))
    again = EpochScores(cases=3, threshold=0.5, labels=labels)
    again.restore(json.loads(json.dumps(scores.to_json())))
    assert again.summary() == summary
