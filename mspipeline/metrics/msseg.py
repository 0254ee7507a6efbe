"""Lesion detection as the MSSEG challenge of 2016 counted it.

Source: `animaSegPerfAnalyzer` of Anima (class SegPerfCAnalyzer) and Commowick 2018, doi:10.1038/s41598-018-31911-7. One
fault of it is not repeated: it visits at most one overlapping component more than the *other* mask has lesions, so that
with a single truth lesion the third and later predictions on it go unchecked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mspipeline.metrics.components import IntArray, Matching
from mspipeline.metrics.crop import BoolArray

MINIMUM_MM3 = 3.0
"""Only components larger than this count; one of exactly 3 mm^3 does not, as in Anima."""
# Shares as whole per cents, so that a share exactly at a threshold is decided in integers.
MINIMUM_OVERLAP_PERCENT = 10
MAXIMUM_OUTSIDE_PERCENT = 70
SUFFICIENT_PERCENT = 65


@dataclass(frozen=True)
class Detection:
    """Which components count, and which of those are detected.

    truth_counted, truth_detected: (M,) of the truth's components, in the order of the `Matching`.
    prediction_counted, prediction_detected: (N,) of the prediction's. What does not count is not detected.
    predicted_mm3: volume of the predicted components that count.
    """

    truth_counted: BoolArray
    truth_detected: BoolArray
    prediction_counted: BoolArray
    prediction_detected: BoolArray
    predicted_mm3: float

    @property
    def truth_lesions(self) -> int:
        """M: truth components that count."""
        return int(self.truth_counted.sum())

    @property
    def predicted_lesions(self) -> int:
        """N: predicted components that count. Where the truth is empty, this and `predicted_mm3` are the result."""
        return int(self.prediction_counted.sum())

    @property
    def sensl(self) -> float:
        """SensL = detected truth lesions / M, in [0, 1]. Empty truth: NaN."""
        return int(self.truth_detected.sum()) / self.truth_lesions if self.truth_lesions else math.nan

    @property
    def ppvl(self) -> float:
        """PPVL = predicted lesions that are detected with the roles swapped / N, in [0, 1].

        Empty prediction: NaN. Empty truth: NaN, because the challenge then reports the number and volume instead.
        """
        if not self.predicted_lesions or not self.truth_lesions:
            return math.nan
        return int(self.prediction_detected.sum()) / self.predicted_lesions

    @property
    def f1(self) -> float:
        """2 SensL PPVL / (SensL + PPVL), in [0, 1]: their harmonic mean. Empty truth: NaN.

        Where no truth lesion is detected it is 0, also of an empty prediction (Anima: 0/0): like Dice, so that means
        over cases do not lose the worst of them.
        """
        sensl, ppvl = self.sensl, self.ppvl
        return 2 * sensl * ppvl / (sensl + ppvl) if sensl else sensl


def detect(matching: Matching, *, voxel_mm3: float) -> Detection:
    """Apply the rules of the challenge in both directions.

    matching: of 6-connected components. voxel_mm3: volume of a voxel.
    A truth lesion is detected where more than 10 % of it is predicted and none of the predicted components visited lies
    by more than 70 % on the truth's background. They are visited by decreasing overlap (of equal overlaps, those that
    lie farther outside first) until they make up 65 % of the overlap. Components of 3 mm^3 or less are background, in
    both masks, before any of this.
    Raises ValueError where the components are not 6-connected.
    """
    if matching.connectivity != 6:
        raise ValueError(f"components of connectivity {matching.connectivity}, expected 6 as in the challenge")
    truth, prediction = matching.truth.sizes_vox, matching.prediction.sizes_vox
    truth_counted, prediction_counted = _counted(truth, voxel_mm3), _counted(prediction, voxel_mm3)
    kept = truth_counted[matching.pair_truth] & prediction_counted[matching.pair_prediction]
    i, j, voxels = matching.pair_truth[kept], matching.pair_prediction[kept], matching.pair_vox[kept]
    return Detection(
        truth_counted,
        _detected(truth, prediction, i, j, voxels),
        prediction_counted,
        _detected(prediction, truth, j, i, voxels),
        float(prediction[prediction_counted].sum() * voxel_mm3),
    )


def _counted(sizes_vox: IntArray, voxel_mm3: float) -> BoolArray:
    # Headers store float32: 10 voxels of 1 x 1 x float32(0.3) mm are meant to be 3 mm^3.
    return np.asarray(sizes_vox * voxel_mm3 > MINIMUM_MM3 * (1 + 1e-6), np.bool_)


def _detected(sizes: IntArray, other_sizes: IntArray, i: IntArray, j: IntArray, voxels: IntArray) -> BoolArray:
    """(M,) whether the components of `sizes` are detected by those of `other_sizes`; pair (i, j) shares `voxels`."""
    overlap = np.zeros(len(sizes), np.int64)
    np.add.at(overlap, i, voxels)
    inside = np.zeros(len(other_sizes), np.int64)
    np.add.at(inside, j, voxels)
    outside = other_sizes - inside
    order = np.lexsort((-outside[j] / other_sizes[j], -voxels, i))
    i, j, voxels = i[order], j[order], voxels[order]
    total = np.cumsum(voxels) - voxels  # of all pairs before this one
    first = np.searchsorted(i, i)  # the first pair of the same component
    before = total - total[first]
    visited = 100 * before < SUFFICIENT_PERCENT * overlap[i]
    fails = visited & (100 * outside[j] > MAXIMUM_OUTSIDE_PERCENT * other_sizes[j])
    detected = 100 * overlap > MINIMUM_OVERLAP_PERCENT * sizes
    detected[i[fails]] = False
    return np.asarray(detected, np.bool_)
