"""mspipeline.metrics against public implementations, each where it is installed: MedPy, MONAI, scikit-learn."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from mspipeline.metrics import challenge, confusion, roc, surface
from mspipeline.metrics.components import match
from mspipeline.metrics.surface import surface_distances

BoolArray = npt.NDArray[np.bool_]
SPACING_MM = (0.8, 1.0, 2.5)


def installed(name: str) -> Any:
    """A module that is no dependency; skips where it is absent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(name.partition(".")[0], reason=f"{name} is not installed")
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def masks() -> tuple[BoolArray, BoolArray]:
    """A smooth random truth of many lesions, some at the border, and a prediction that misses and invents some."""
    random = np.random.default_rng(3)
    field = ndimage.gaussian_filter(random.standard_normal((50, 60, 40)), 2)
    other = field + 0.6 * ndimage.gaussian_filter(random.standard_normal((50, 60, 40)), 2)
    return np.asarray(field > 0.12, np.bool_), np.asarray(other > 0.15, np.bool_)


def test_distances_are_those_of_medpy(masks: tuple[BoolArray, BoolArray]) -> None:
    binary = installed("medpy.metric.binary")
    truth, prediction = masks
    distances = surface_distances(truth, prediction, spacing_mm=SPACING_MM)
    for ours, theirs in (
        (surface.hausdorff_mm(distances), binary.hd(prediction, truth, SPACING_MM)),
        (surface.hd95_pooled_mm(distances), binary.hd95(prediction, truth, SPACING_MM)),
        (surface.asd_prediction_to_truth_mm(distances), binary.asd(prediction, truth, SPACING_MM)),
        (surface.asd_truth_to_prediction_mm(distances), binary.asd(truth, prediction, SPACING_MM)),
        (surface.assd_mm(distances), binary.assd(prediction, truth, SPACING_MM)),
    ):
        assert ours == pytest.approx(theirs, rel=1e-12)


def test_volume_correlation_is_that_of_medpy() -> None:
    binary = installed("medpy.metric.binary")
    random = np.random.default_rng(0)
    truth, prediction = (random.random((7, 6, 6, 6)) < random.random((7, 1, 1, 1)) for _ in range(2))
    ours = challenge.volume_correlation(truth.sum((1, 2, 3)).tolist(), prediction.sum((1, 2, 3)).tolist())
    assert ours == pytest.approx(binary.volume_correlation(list(prediction), list(truth))[0])


@pytest.mark.filterwarnings("ignore::FutureWarning")  # MONAI 1.6 warns of its own calls
def test_distances_are_those_of_monai(masks: tuple[BoolArray, BoolArray]) -> None:
    monai, torch = installed("monai.metrics"), installed("torch")
    truth, prediction = (torch.from_numpy(mask)[None, None] for mask in masks)
    distances = surface_distances(*masks, spacing_mm=SPACING_MM)
    options = {"include_background": True, "spacing": SPACING_MM}
    for ours, theirs in (
        (surface.hausdorff_mm(distances), monai.compute_hausdorff_distance(prediction, truth, **options)),
        (surface.hd95_mm(distances), monai.compute_hausdorff_distance(prediction, truth, percentile=95, **options)),
        (
            surface.asd_prediction_to_truth_mm(distances),
            monai.compute_average_surface_distance(prediction, truth, **options),
        ),
        (
            surface.assd_mm(distances),
            monai.compute_average_surface_distance(prediction, truth, symmetric=True, **options),
        ),
        (
            surface.surface_dice(distances, tolerance_mm=1),
            monai.compute_surface_dice(prediction, truth, [1.0], **options),
        ),
    ):
        assert ours == pytest.approx(float(theirs), rel=1e-6)  # MONAI answers in float32


def test_lesion_rates_are_those_of_a_loop_over_labels(masks: tuple[BoolArray, BoolArray]) -> None:
    truth, prediction = masks
    structure = ndimage.generate_binary_structure(3, 2)
    found = match(truth, prediction, connectivity=18)
    for ours, mask, other in (
        (challenge.ltpr(found), truth, prediction),
        (1 - challenge.lfpr(found), prediction, truth),
    ):
        labels: Any = ndimage.label(mask, structure)[0]
        hits = [bool(other[labels == label].any()) for label in range(1, labels.max() + 1)]
        assert 0 < sum(hits) < len(hits)
        assert ours == pytest.approx(sum(hits) / len(hits))


def test_area_and_class_scores_are_those_of_scikit_learn(masks: tuple[BoolArray, BoolArray]) -> None:
    metrics = installed("sklearn.metrics")
    truth, prediction = masks
    random = np.random.default_rng(0)
    probability = np.round((truth + random.standard_normal(truth.shape)) / 3, 2).astype(np.float32)  # with ties
    assert roc.roc_auc(truth, probability) == pytest.approx(metrics.roc_auc_score(truth.ravel(), probability.ravel()))
    labels, called = truth.astype(int) + random.integers(0, 2, truth.shape), prediction + (probability > 0.3)
    matrix = confusion.confusion_matrix(labels, called, classes=3)
    assert matrix.tolist() == metrics.confusion_matrix(labels.ravel(), called.ravel()).tolist()
    assert confusion.mean_iou(matrix) == pytest.approx(
        metrics.jaccard_score(labels.ravel(), called.ravel(), average="macro")
    )
    assert confusion.frequency_weighted_iou(matrix) == pytest.approx(
        metrics.jaccard_score(labels.ravel(), called.ravel(), average="weighted")
    )
    assert confusion.mean_pixel_accuracy(matrix) == pytest.approx(
        metrics.balanced_accuracy_score(labels.ravel(), called.ravel())
    )
