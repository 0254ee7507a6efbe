"""From a map of probabilities to lesions: threshold, connected components, smallest lesion, smallest load."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from mspipeline.channels import label_map
from mspipeline.labels import LESION, LESIONS
from mspipeline.volume import BoolArray, FloatArray

SIX_CONNECTED = ndimage.generate_binary_structure(3, 1)
"""Voxels touch by their faces."""


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
    mask = label_map(LESIONS, {LESION: probability}, threshold=threshold).view(bool)
    if larger_than_vox:
        labels, count = ndimage.label(mask, SIX_CONNECTED)
        kept = np.bincount(labels.ravel(), minlength=count + 1) > larger_than_vox
        kept[0] = False  # the background
        mask = kept[labels]
    if int(mask.sum()) * voxel_ml < min_total_ml:
        return np.zeros_like(mask)
    return mask
