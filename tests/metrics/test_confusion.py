"""mspipeline.metrics.confusion against numbers computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mspipeline.errors import ShapeError
from mspipeline.metrics import confusion, overlap

MATRIX = np.array([[50, 3, 7], [2, 18, 0], [5, 5, 10]])  # 100 voxels; rows 60, 20, 20; columns 57, 26, 17


def test_a_row_is_a_true_class_and_a_column_what_it_was_called() -> None:
    truth, prediction = np.array([[0, 0, 1], [2, 2, 2]]), np.array([[0, 2, 1], [1, 1, 2]], np.uint8)
    matrix = confusion.confusion_matrix(truth, prediction, classes=4)
    assert matrix.tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0]]


def test_scores_of_a_hand_computed_matrix() -> None:
    assert confusion.pixel_accuracy(MATRIX) == 0.78
    assert confusion.mean_pixel_accuracy(MATRIX) == pytest.approx((50 / 60 + 18 / 20 + 10 / 20) / 3)
    assert confusion.mean_iou(MATRIX) == pytest.approx((50 / 67 + 18 / 28 + 10 / 27) / 3)
    assert confusion.frequency_weighted_iou(MATRIX) == pytest.approx(0.6 * 50 / 67 + 0.2 * 18 / 28 + 0.2 * 10 / 27)


def test_an_absent_class_takes_no_part_in_the_means() -> None:
    padded = np.pad(MATRIX, (0, 1))
    for score in (confusion.mean_pixel_accuracy, confusion.mean_iou, confusion.frequency_weighted_iou):
        assert score(padded) == pytest.approx(score(MATRIX))


def test_a_class_only_predicted_has_iou_0_and_no_accuracy() -> None:
    matrix = np.array([[3, 1], [0, 0]])
    assert confusion.mean_iou(matrix) == (3 / 4 + 0) / 2
    assert confusion.mean_pixel_accuracy(matrix) == 3 / 4
    assert confusion.frequency_weighted_iou(matrix) == 3 / 4


def test_no_voxels_give_nan() -> None:
    empty = confusion.confusion_matrix(np.zeros(0, int), np.zeros(0, int), classes=2)
    for name in ("pixel_accuracy", "mean_pixel_accuracy", "mean_iou", "frequency_weighted_iou"):
        assert math.isnan(getattr(confusion, name)(empty)), name


def test_counts_of_a_mask_are_the_matrix_of_two_classes() -> None:
    truth, prediction = np.array([1, 1, 1, 0, 0, 0], bool), np.array([1, 0, 0, 1, 0, 0], bool)
    matrix = confusion.of_counts(overlap.count(truth, prediction))
    assert matrix.tolist() == confusion.confusion_matrix(truth, prediction, classes=2).tolist() == [[2, 1], [2, 1]]


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="back to the grid"):
        confusion.confusion_matrix(np.zeros((2, 3), int), np.zeros((3, 2), int), classes=2)
    with pytest.raises(TypeError, match="prediction of float64"):
        confusion.confusion_matrix(np.zeros(2, int), np.zeros(2), classes=2)
    with pytest.raises(ValueError, match="truth: labels from 0 to 2, expected 0 to 1"):
        confusion.confusion_matrix(np.array([0, 2]), np.zeros(2, int), classes=2)
    with pytest.raises(ValueError, match="labels from -1"):
        confusion.confusion_matrix(np.array([0, -1]), np.zeros(2, int), classes=2)
