"""Candidates: the voxels of a scan that are worth a patch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.volume import BoolArray, FloatArray

Coordinates = npt.NDArray[np.integer[Any]]


def candidates(image: FloatArray, above: float, *, within: BoolArray | None = None) -> Coordinates:
    """Voxels brighter than `above`, in the order of memory (Valverde et al. 2017: normalised FLAIR above 0.5).

    image: (X, Y, Z), normalised. within: (X, Y, Z), where given no voxel outside it is a candidate.
    Returns (N, 3) indices along x, y, z; N may be 0.
    """
    bright = image > np.float32(above)
    if within is not None:
        bright &= within
    return np.argwhere(bright)
