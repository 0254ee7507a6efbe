"""Probabilities before a logarithm is taken of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.arrays import Arrays

FloatArray = npt.NDArray[np.floating]

PROBABILITY_FLOOR = 1e-7
"""They are clipped to [floor, 1 - floor]."""


def clipped(arrays: Arrays, probability: Any) -> Any:
    """Within [1e-7, 1 - 1e-7]."""
    return arrays.clip(probability, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)


def unclipped(probability: FloatArray) -> npt.NDArray[np.bool_]:
    """Where clipping changes nothing; elsewhere the gradient is zero."""
    return (probability >= PROBABILITY_FLOOR) & (probability <= 1 - PROBABILITY_FLOOR)


def voxels_of(mask: FloatArray) -> int:
    """Voxels of a batch, or its patches, of a mask with channels last: what a mean over voxels divides by."""
    return int(mask.size // mask.shape[-1])
