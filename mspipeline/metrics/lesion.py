"""One row per lesion: where it lies, how large it is, whether it was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mspipeline.metrics.components import Components, IntArray, Matching, match
from mspipeline.metrics.crop import BoolArray, check_spacing
from mspipeline.metrics.msseg import Detection, detect

AFFINE_TOLERANCE = 1e-3
"""Spacing and affine may differ by this share: headers store float32, some tools round."""


@dataclass(frozen=True)
class LesionRow:
    """One 6-connected component of the truth or of the prediction.

    mask: whose component it is. lesion: its number from 1, by decreasing size; truth and prediction count apart.
    x_mm, y_mm, z_mm: centroid (mean of its voxel centres) in world coordinates, RAS+.
    overlap_vox: its voxels that are in the other mask too.
    detected_any_voxel: overlap_vox > 0. False is a missed lesion of the truth, a false positive of the prediction.
    detected_msseg2016: detected (or, of the prediction, confirmed) by the rules of `msseg.detect`; None where it has
    3 mm^3 or less and does not count there.
    """

    mask: Literal["truth", "prediction"]
    lesion: int
    size_vox: int
    size_mm3: float
    x_mm: float
    y_mm: float
    z_mm: float
    overlap_vox: int
    detected_any_voxel: bool
    detected_msseg2016: bool | None


def lesion_rows(
    truth: BoolArray, prediction: BoolArray, *, spacing_mm: Sequence[float], affine_ras: npt.NDArray[np.float64]
) -> list[LesionRow]:
    """Rows of the truth's lesions, then of the predicted ones. An empty mask has none.

    truth, prediction: (X, Y, Z) bool, on one grid. spacing_mm: voxel sizes along X, Y, Z. affine_ras: (4, 4), voxel
    index to world mm.
    Raises ShapeError where the shapes differ or have not three axes, TypeError where a mask is not bool, ValueError
    where the spacing is not positive or is not that of the affine.
    """
    check_affine(spacing_mm, affine_ras)
    matching = match(truth, prediction, connectivity=6)
    detection = detect(matching, voxel_mm3=math.prod(spacing_mm))
    return rows_of(matching, detection, voxel_mm3=math.prod(spacing_mm), affine_ras=affine_ras)


def rows_of(
    matching: Matching, detection: Detection, *, voxel_mm3: float, affine_ras: npt.NDArray[np.float64]
) -> list[LesionRow]:
    """The rows of a matching and its detection, for callers that have them already."""
    return [
        *_rows(
            "truth",
            matching.truth,
            matching.truth_overlap_vox,
            detection.truth_counted,
            detection.truth_detected,
            voxel_mm3,
            affine_ras,
        ),
        *_rows(
            "prediction",
            matching.prediction,
            matching.prediction_overlap_vox,
            detection.prediction_counted,
            detection.prediction_detected,
            voxel_mm3,
            affine_ras,
        ),
    ]


def check_affine(spacing_mm: Sequence[float], affine_ras: npt.NDArray[np.float64]) -> None:
    """Raise ValueError where a spacing is not positive, or is not the length of the affine's columns."""
    check_spacing(spacing_mm)
    if np.shape(affine_ras) != (4, 4):
        raise ValueError(f"affine_ras of shape {np.shape(affine_ras)}, expected (4, 4)")
    lengths = np.linalg.norm(np.asarray(affine_ras, float)[:3, :3], axis=0)
    if not np.allclose(lengths, np.asarray(spacing_mm, float), rtol=AFFINE_TOLERANCE, atol=0):
        raise ValueError(
            f"spacing_mm {tuple(spacing_mm)} is not that of the affine, {tuple(lengths.round(4).tolist())}; "
            "take both from one grid"
        )


def _rows(
    mask: Literal["truth", "prediction"],
    components: Components,
    overlap_vox: IntArray,
    counted: BoolArray,
    detected: BoolArray,
    voxel_mm3: float,
    affine_ras: npt.NDArray[np.float64],
) -> list[LesionRow]:
    centroids_mm = components.centroids_vox @ affine_ras[:3, :3].T + affine_ras[:3, 3]
    return [
        LesionRow(
            mask=mask,
            lesion=number + 1,
            size_vox=int(size),
            size_mm3=float(size * voxel_mm3),
            x_mm=float(centroid[0]),
            y_mm=float(centroid[1]),
            z_mm=float(centroid[2]),
            overlap_vox=int(overlap),
            detected_any_voxel=bool(overlap > 0),
            detected_msseg2016=bool(detected[number]) if counted[number] else None,
        )
        for number, (size, centroid, overlap) in enumerate(
            zip(components.sizes_vox, centroids_mm, overlap_vox, strict=True)
        )
    ]
