"""The scores of a case by name: what each computes, its unit, definition and number format, in the order of the table.

Columns of the table `cases`, rows and columns of the page and what the command line prints are derived from this table.
Packages add scores by the entry point group `mspipeline.scores`: a `Score`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mspipeline.metrics import challenge, confusion, overlap, surface
from mspipeline.metrics.case_masks import CaseMasks
from mspipeline.metrics.roc import roc_auc
from mspipeline.plugins import Registry, instance_of

TOLERANCE_MM = 1.0
"""Of surface Dice and boundary Jaccard; their names carry it."""


@dataclass(frozen=True)
class Score:
    """One score of a case.

    compute: of the case's masks; NaN where it is undefined. unit: as the table has it, empty for a pure number.
    definition: in words, with the formula. heading: over its column in the page's table of cases; empty: it has none.
    row: the name of its row in the page's comparison; empty: it has none. format: as for Python's `format`. is_count: a
    whole number. counts_components: it is of connected components, and is unknown of labels whose components are not
    counted (`count_components` of a label set).
    """

    name: str
    compute: Callable[[CaseMasks], float]
    definition: str
    unit: str = ""
    heading: str = ""
    row: str = ""
    format: str = ".3f"
    is_count: bool = False
    counts_components: bool = False


def _count(name: str, compute: Callable[[CaseMasks], float], definition: str) -> Score:
    return Score(name, compute, definition, "voxels", format=".0f", is_count=True)


def _lesions(
    name: str,
    compute: Callable[[CaseMasks], float],
    definition: str,
    unit: str = "",
    heading: str = "",
    row: str = "",
    *,
    is_count: bool = False,
) -> Score:
    """A score of connected components."""
    pattern = ".0f" if is_count else ".3f"
    return Score(name, compute, f"{definition} {_COUNTED}", unit, heading, row, pattern, is_count, True)


def _roc_auc(masks: CaseMasks) -> float:
    return math.nan if masks.probability is None else roc_auc(masks.truth, masks.probability)


_COUNTED = "Only of labels whose components are counted, as lesions are."
_SIX = "6-connected components"
_ABOVE = "6-connected components above 3 mm^3"
_MSSEG = (
    "by the rules of MSSEG 2016 (6-connected lesions above 3 mm³; detected where enough of their volume is overlapped "
    "by lesions that lie mostly inside)"
)

_BUILT_IN = (
    Score("dice", lambda m: overlap.dice(m.counts), "2TP/(2TP+FP+FN), the same as F1.", heading="Dice"),
    Score("iou", lambda m: overlap.iou(m.counts), "Intersection over union (Jaccard), TP/(TP+FP+FN).", heading="IoU"),
    Score(
        "precision",
        lambda m: overlap.precision(m.counts),
        "TP/(TP+FP): how much of what was predicted is right.",
        heading="Precision",
    ),
    Score(
        "recall",
        lambda m: overlap.recall(m.counts),
        "TP/(TP+FN): how much of what is there was found (sensitivity).",
        heading="Recall",
    ),
    Score(
        "specificity",
        lambda m: overlap.specificity(m.counts),
        "TN/(TN+FP); near 1 whenever lesions or organs are small, so of little use alone.",
        heading="Specificity",
        format=".4f",
    ),
    Score("accuracy", lambda m: overlap.accuracy(m.counts), "(TP+TN) of all voxels; of two classes, pixel accuracy."),
    Score(
        "mean_pixel_accuracy",
        lambda m: confusion.mean_pixel_accuracy(m.confusion),
        "Mean over the two classes of the share of a class's voxels that is predicted as it.",
    ),
    Score("mean_iou", lambda m: confusion.mean_iou(m.confusion), "Mean over the two classes of IoU."),
    Score(
        "frequency_weighted_iou",
        lambda m: confusion.frequency_weighted_iou(m.confusion),
        "IoU of the two classes, weighted by their share of the true voxels.",
    ),
    Score(
        "ndsc_shifts",
        lambda m: challenge.ndsc_shifts(m.counts),
        "Dice of the Shifts challenge: false positives scaled as if 0.1 % of the voxels had the label in every case.",
    ),
    Score(
        "volume_error_percent",
        lambda m: overlap.volume_error_percent(m.counts),
        "100 (predicted volume - true volume) / true volume; negative where too little was predicted.",
        "percent",
        heading="Volume error (%)",
        format="+.1f",
    ),
    _count("true_positive", lambda m: m.counts.true_positive, "Voxels of the label that were predicted as it."),
    _count("false_positive", lambda m: m.counts.false_positive, "Other voxels that were predicted as the label."),
    _count("false_negative", lambda m: m.counts.false_negative, "Voxels of the label that were not predicted as it."),
    _count("true_negative", lambda m: m.counts.true_negative, "Other voxels that were not predicted as the label."),
    Score(
        "truth_ml",
        lambda m: (m.counts.true_positive + m.counts.false_negative) * m.voxel_mm3 / 1000,
        "Volume of the label, such as lesion, in the reference mask.",
        "ml",
        heading="Truth (ml)",
        format=".2f",
    ),
    Score(
        "prediction_ml",
        lambda m: (m.counts.true_positive + m.counts.false_positive) * m.voxel_mm3 / 1000,
        "Volume of the label in the prediction.",
        "ml",
        heading="Predicted (ml)",
        format=".2f",
    ),
    Score(
        "roc_auc",
        _roc_auc,
        "Area under the receiver operating characteristic over the case's voxels; undefined of a region of labels.",
    ),
    _lesions(
        "truth_lesions_6",
        lambda m: len(m.faces.truth),
        "6-connected components of the reference mask, of any size.",
        _SIX,
        "Lesions",
        is_count=True,
    ),
    _lesions(
        "predicted_lesions_6",
        lambda m: len(m.faces.prediction),
        "6-connected components of the prediction, of any size.",
        _SIX,
        "Predicted lesions",
        is_count=True,
    ),
    _lesions(
        "msseg2016_truth_lesions",
        lambda m: m.detection.truth_lesions,
        "Lesions of the reference mask above 3 mm³.",
        _ABOVE,
        is_count=True,
    ),
    _lesions(
        "msseg2016_predicted_lesions",
        lambda m: m.detection.predicted_lesions,
        "Predicted lesions above 3 mm³.",
        _ABOVE,
        is_count=True,
    ),
    _lesions(
        "msseg2016_predicted_ml",
        lambda m: m.detection.predicted_mm3 / 1000,
        "Volume of the predicted lesions above 3 mm³.",
        "ml",
    ),
    _lesions("msseg2016_sensl", lambda m: m.detection.sensl, f"Share of the true lesions that is detected, {_MSSEG}."),
    _lesions("msseg2016_ppvl", lambda m: m.detection.ppvl, f"Share of the predicted lesions that is right, {_MSSEG}."),
    _lesions(
        "msseg2016_f1",
        lambda m: m.detection.f1,
        f"Harmonic mean of lesion sensitivity and lesion precision {_MSSEG}.",
        heading="Lesion F1",
        row="lesion F1 (MSSEG 2016)",
    ),
    _lesions(
        "isbi2015_ltpr_18",
        lambda m: challenge.ltpr(m.edges),
        "ISBI 2015: share of the 18-connected true lesions that the prediction touches.",
    ),
    _lesions(
        "isbi2015_lfpr_18",
        lambda m: challenge.lfpr(m.edges),
        "ISBI 2015: share of the 18-connected predicted lesions that touch no true one.",
    ),
    Score(
        "hausdorff_mm",
        lambda m: surface.hausdorff_mm(m.distances),
        "The largest distance from a surface voxel of one mask to the other's surface, in mm.",
        "mm",
        format=".1f",
    ),
    Score(
        "hd95_mm",
        lambda m: surface.hd95_mm(m.distances),
        "The larger of the two directed 95th percentiles of the distances between surface voxels, in mm.",
        "mm",
        heading="HD95 (mm)",
        row="95 % Hausdorff distance (mm)",
        format=".1f",
    ),
    Score(
        "hd95_pooled_mm",
        lambda m: surface.hd95_pooled_mm(m.distances),
        "The 95th percentile of the distances of both directions together, in mm.",
        "mm",
        format=".1f",
    ),
    Score(
        "asd_truth_to_prediction_mm",
        lambda m: surface.asd_truth_to_prediction_mm(m.distances),
        "Mean distance from the reference's surface voxels to the prediction's surface, in mm.",
        "mm",
        format=".2f",
    ),
    Score(
        "asd_prediction_to_truth_mm",
        lambda m: surface.asd_prediction_to_truth_mm(m.distances),
        "Mean distance from the prediction's surface voxels to the reference's surface, in mm.",
        "mm",
        format=".2f",
    ),
    Score(
        "assd_mm",
        lambda m: surface.assd_mm(m.distances),
        "Average symmetric surface distance, in mm.",
        "mm",
        heading="ASSD (mm)",
        row="average symmetric surface distance (mm)",
        format=".2f",
    ),
    Score(
        "masd_mm",
        lambda m: surface.masd_mm(m.distances),
        "Mean of the two directed average surface distances, in mm.",
        "mm",
        format=".2f",
    ),
    Score(
        "asd_anima_mm",
        lambda m: surface.asd_anima_mm(m.distances),
        "Average surface distance as Anima prints it, in mm: biased low, for comparison with published tables alone.",
        "mm",
        format=".2f",
    ),
    Score(
        "surface_dice_1mm",
        lambda m: surface.surface_dice(m.distances, tolerance_mm=TOLERANCE_MM),
        "Share of both surfaces that lies within 1 mm of the other.",
        row="surface Dice at 1 mm",
    ),
    Score(
        "boundary_jaccard_1mm",
        lambda m: surface.boundary_jaccard(m.distances, tolerance_mm=TOLERANCE_MM),
        "Jaccard index of the two surfaces, a voxel counting as shared within 1 mm of the other.",
    ),
)


OTHER_COLUMNS = frozenset(
    {
        "run_id",
        "time_utc",
        "case",
        "label",
        "united",
        "subset",
        "checkpoint",
        "grid",
        "threshold",
        "seconds",
        "device",
        "truth",
    }
)
"""Columns of the table `cases` that are no scores: their names are taken."""


def _accept(name: str, made: Any) -> Score:
    score = instance_of(Score)(name, made)
    if name in OTHER_COLUMNS:
        raise ValueError(f"the table of cases has another column {name!r}; choose another name")
    if score.name != name:
        raise ValueError(f"expected a Score of that name; received one called {score.name!r}")
    if not score.definition:
        raise ValueError("expected a Score with a definition in words")
    return score


SCORES = Registry("score", "mspipeline.scores", {score.name: score for score in _BUILT_IN}, _accept)
