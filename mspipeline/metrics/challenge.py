"""Scores of two challenges: ISBI 2015 (longitudinal MS lesions) and Shifts 2022 (white-matter lesions).

Lesion counts depend on what is connected, so a row's names carry the connectivity: `ltpr_18` is not `ltpr_6`. The
challenge is commonly read as 18; this is unverified.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mspipeline.metrics.components import Matching
from mspipeline.metrics.overlap import Counts

SHIFTS_LOAD = 0.001
"""r of the Shifts challenge: the lesion load to which precision is scaled."""


def ltpr(matching: Matching) -> float:
    """LTPR = truth lesions with a predicted voxel / truth lesions, in [0, 1] (Carass 2017). Empty truth: NaN."""
    overlap = matching.truth_overlap_vox
    return int((overlap > 0).sum()) / len(overlap) if len(overlap) else math.nan


def lfpr(matching: Matching) -> float:
    """LFPR = predicted lesions without a voxel of truth / predicted lesions, in [0, 1] (Carass 2017).

    It is a false discovery rate in spite of its name. Empty prediction: NaN.
    """
    overlap = matching.prediction_overlap_vox
    return int((overlap == 0).sum()) / len(overlap) if len(overlap) else math.nan


def volume_correlation(truth_ml: Sequence[float], prediction_ml: Sequence[float]) -> float:
    """r_vol: Pearson's correlation of lesion volumes over cases, in [-1, 1] (Carass 2017).

    truth_ml, prediction_ml: one volume a case, in the same order. Fewer than two cases, volumes that are all equal, or
    one that is NaN: NaN.
    Raises ValueError where the numbers of cases differ.
    """
    if len(truth_ml) != len(prediction_ml):
        raise ValueError(f"{len(truth_ml)} true and {len(prediction_ml)} predicted volumes, expected one of each case")
    truth, prediction = np.asarray(truth_ml, float), np.asarray(prediction_ml, float)
    if len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(prediction) == 0:
        return math.nan
    truth, prediction = truth - truth.mean(), prediction - prediction.mean()
    r = float(truth @ prediction) / math.sqrt(float(truth @ truth) * float(prediction @ prediction))
    return min(1.0, max(-1.0, r)) if math.isfinite(r) else math.nan


def isbi2015_score(*, dice: float, ppv: float, lfpr: float, ltpr: float, volume_correlation: float) -> float:
    """DSC/8 + PPV/8 + (1 - LFPR)/4 + LTPR/4 + r_vol/4, at most 1 (Carass 2017); the challenge shows 100 times this.

    dice, ppv, lfpr, ltpr: means over cases. volume_correlation: over the same cases. Any of them NaN: NaN.
    """
    return dice / 8 + ppv / 8 + (1 - lfpr) / 4 + ltpr / 4 + volume_correlation / 4


def ndsc_shifts(counts: Counts, *, load: float = SHIFTS_LOAD) -> float:
    """nDSC = 2TP / (k FP + 2TP + FN), k = (1 - r) V / (r (N - V)), in [0, 1] (Raina 2023, Malinin 2022).

    Dice with false positives scaled to a lesion load of r. V: voxels of truth, N: all voxels given.
    Empty truth: NaN (0/0, as k is 0; the challenge's code sets k = 1 and gives 0, or 1 where the prediction is empty
    too). Truth everywhere: NaN, as k is undefined.
    """
    truth = counts.true_positive + counts.false_negative
    background = counts.false_positive + counts.true_negative
    if not truth or not background:
        return math.nan
    scaled = (1 - load) * truth / (load * background) * counts.false_positive
    return 2 * counts.true_positive / (scaled + 2 * counts.true_positive + counts.false_negative)
