"""Truth and prediction of one label in a case, with what several scores are computed of, once each, when needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.metrics import confusion, overlap, surface
from mspipeline.metrics.components import Matching, match
from mspipeline.metrics.crop import BoolArray, check_masks
from mspipeline.metrics.lesion import check_affine
from mspipeline.metrics.msseg import Detection, detect


class CaseMasks:
    """Two masks of one case on one grid.

    truth, prediction: (X, Y, Z) bool. spacing_mm: voxel sizes along X, Y, Z. affine_ras: (4, 4), voxel index to world
    mm. probability: (X, Y, Z) float, or None where it is not known.
    Raises ShapeError where the shapes differ or have not three axes, TypeError where a mask is not bool, ValueError
    where the spacing is not positive or not that of the affine.
    """

    def __init__(
        self,
        truth: BoolArray,
        prediction: BoolArray,
        *,
        spacing_mm: Sequence[float],
        affine_ras: npt.NDArray[np.float64],
        probability: npt.NDArray[Any] | None = None,
    ) -> None:
        check_masks(truth, prediction)
        check_affine(spacing_mm, affine_ras)
        self.truth, self.prediction, self.probability = truth, prediction, probability
        self.spacing_mm, self.affine_ras = spacing_mm, affine_ras
        self.voxel_mm3 = math.prod(spacing_mm)

    @cached_property
    def counts(self) -> overlap.Counts:
        """Voxels by truth and prediction."""
        return overlap.count(self.truth, self.prediction)

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64]:
        """(2, 2) of the classes background and label."""
        return confusion.of_counts(self.counts)

    @cached_property
    def faces(self) -> Matching:
        """The 6-connected components of both masks, and which overlap."""
        return match(self.truth, self.prediction, connectivity=6)

    @cached_property
    def edges(self) -> Matching:
        """The same of 18-connected components."""
        return match(self.truth, self.prediction, connectivity=18)

    @cached_property
    def detection(self) -> Detection:
        """Lesions found, by the rules of MSSEG 2016."""
        return detect(self.faces, voxel_mm3=self.voxel_mm3)

    @cached_property
    def distances(self) -> surface.SurfaceDistances:
        """Distances between the surfaces of both masks, in mm."""
        return surface.surface_distances(self.truth, self.prediction, spacing_mm=self.spacing_mm)
