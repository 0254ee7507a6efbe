"""From a map of probabilities to lesions: threshold, connected components, smallest lesion, smallest load."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mspipeline.volume import BoolArray, FloatArray, ScanGrid

SIX_CONNECTED = ndimage.generate_binary_structure(3, 1)
"""Voxels touch by their faces."""


@dataclass(frozen=True)
class LesionMap:
    """Lesions of one case on the canonical axes of `grid`. probability: (X, Y, Z) in [0, 1]. mask: (X, Y, Z)."""

    probability: FloatArray
    mask: BoolArray
    grid: ScanGrid


def lesion_mask(
    probability: FloatArray,
    *,
    threshold: float,
    larger_than_vox: int = 0,
    min_total_ml: float = 0.0,
    voxel_ml: float = 1e-3,
) -> BoolArray:
    """The lesions of a probability map, as nicMSlesions draws them.

    probability: (X, Y, Z) in [0, 1]. A voxel counts from `threshold` on. Components (6-connected) of `larger_than_vox`
    voxels or fewer are dropped; where what is left has less than `min_total_ml`, all of it is. voxel_ml: of one voxel.
    Returns (X, Y, Z) bool; it may be empty.
    """
    mask: BoolArray = probability >= np.float32(threshold)
    if larger_than_vox:
        labels, count = ndimage.label(mask, SIX_CONNECTED)
        kept = np.bincount(labels.ravel(), minlength=count + 1) > larger_than_vox
        kept[0] = False  # the background
        mask = kept[labels]
    if int(mask.sum()) * voxel_ml < min_total_ml:
        return np.zeros_like(mask)
    return mask
