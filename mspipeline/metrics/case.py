"""Every score of one case in one call: the row of the table `cases` and the rows of the table `lesions`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.metrics import challenge, confusion, overlap, surface
from mspipeline.metrics.components import match
from mspipeline.metrics.crop import BoolArray, check_masks
from mspipeline.metrics.lesion import LesionRow, check_affine, rows_of
from mspipeline.metrics.msseg import detect
from mspipeline.metrics.roc import roc_auc

TOLERANCE_MM = 1.0
"""Of surface Dice and boundary Jaccard; their names in the row carry it."""


def case_scores(
    truth: BoolArray,
    prediction: BoolArray,
    *,
    spacing_mm: Sequence[float],
    affine_ras: npt.NDArray[np.float64],
    probability: npt.NDArray[Any] | None = None,
) -> dict[str, float]:
    """Overlap, lesion and surface scores of one case by name: those of `score_case`, which defines them.

    Arguments and errors: as `score_case`.
    """
    return score_case(truth, prediction, spacing_mm=spacing_mm, affine_ras=affine_ras, probability=probability)[0]


def score_case(
    truth: BoolArray,
    prediction: BoolArray,
    *,
    spacing_mm: Sequence[float],
    affine_ras: npt.NDArray[np.float64],
    probability: npt.NDArray[Any] | None = None,
) -> tuple[dict[str, float], list[LesionRow]]:
    """The scores of one case by name, and a row for each lesion.

    Each score is the function of its name in `overlap`, `confusion`, `roc`, `challenge` and `surface`;
    `msseg2016_*` are of `msseg.Detection`, `isbi2015_*_18` of 18-connected components. Other lesions are 6-connected.

    truth, prediction: (X, Y, Z) bool, on one grid. spacing_mm: voxel sizes along X, Y, Z. affine_ras: (4, 4), voxel
    index to world mm. probability: (X, Y, Z) float, for `roc_auc`; that is NaN without it.
    Counts are int, all else float; what is undefined is NaN.
    Raises ShapeError where the shapes differ or have not three axes, TypeError where a mask is not bool, ValueError
    where the spacing is not positive or not that of the affine, or a probability is NaN.
    """
    check_masks(truth, prediction)
    check_affine(spacing_mm, affine_ras)
    voxel_mm3 = math.prod(spacing_mm)
    counts = overlap.count(truth, prediction)
    faces = match(truth, prediction, connectivity=6)
    detection = detect(faces, voxel_mm3=voxel_mm3)
    scores = {
        **_overlap(counts, voxel_mm3),
        "roc_auc": math.nan if probability is None else roc_auc(truth, probability),
        "truth_lesions_6": len(faces.truth),
        "predicted_lesions_6": len(faces.prediction),
        "msseg2016_truth_lesions": detection.truth_lesions,
        "msseg2016_predicted_lesions": detection.predicted_lesions,
        "msseg2016_predicted_ml": detection.predicted_mm3 / 1000,
        "msseg2016_sensl": detection.sensl,
        "msseg2016_ppvl": detection.ppvl,
        "msseg2016_f1": detection.f1,
        **_isbi2015(truth, prediction),
        **_surface(truth, prediction, spacing_mm),
    }
    return scores, rows_of(faces, detection, voxel_mm3=voxel_mm3, affine_ras=affine_ras)


def _overlap(counts: overlap.Counts, voxel_mm3: float) -> dict[str, float]:
    matrix = confusion.of_counts(counts)
    return {
        "dice": overlap.dice(counts),
        "iou": overlap.iou(counts),
        "precision": overlap.precision(counts),
        "recall": overlap.recall(counts),
        "specificity": overlap.specificity(counts),
        "accuracy": overlap.accuracy(counts),  # of two classes, the pixel accuracy too
        "mean_pixel_accuracy": confusion.mean_pixel_accuracy(matrix),
        "mean_iou": confusion.mean_iou(matrix),
        "frequency_weighted_iou": confusion.frequency_weighted_iou(matrix),
        "ndsc_shifts": challenge.ndsc_shifts(counts),
        "volume_error_percent": overlap.volume_error_percent(counts),
        "true_positive": counts.true_positive,
        "false_positive": counts.false_positive,
        "false_negative": counts.false_negative,
        "true_negative": counts.true_negative,
        "truth_ml": (counts.true_positive + counts.false_negative) * voxel_mm3 / 1000,
        "prediction_ml": (counts.true_positive + counts.false_positive) * voxel_mm3 / 1000,
    }


def _isbi2015(truth: BoolArray, prediction: BoolArray) -> dict[str, float]:
    edges = match(truth, prediction, connectivity=18)
    return {"isbi2015_ltpr_18": challenge.ltpr(edges), "isbi2015_lfpr_18": challenge.lfpr(edges)}


def _surface(truth: BoolArray, prediction: BoolArray, spacing_mm: Sequence[float]) -> dict[str, float]:
    distances = surface.surface_distances(truth, prediction, spacing_mm=spacing_mm)
    return {
        "hausdorff_mm": surface.hausdorff_mm(distances),
        "hd95_mm": surface.hd95_mm(distances),
        "hd95_pooled_mm": surface.hd95_pooled_mm(distances),
        "asd_truth_to_prediction_mm": surface.asd_truth_to_prediction_mm(distances),
        "asd_prediction_to_truth_mm": surface.asd_prediction_to_truth_mm(distances),
        "assd_mm": surface.assd_mm(distances),
        "masd_mm": surface.masd_mm(distances),
        "asd_anima_mm": surface.asd_anima_mm(distances),
        "surface_dice_1mm": surface.surface_dice(distances, tolerance_mm=TOLERANCE_MM),
        "boundary_jaccard_1mm": surface.boundary_jaccard(distances, tolerance_mm=TOLERANCE_MM),
    }
