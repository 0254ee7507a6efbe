"""Intensities: where the brain is, its mean and spread, and the normalised image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.errors import VolumeError
from mspipeline.volume import BoolArray, FloatArray


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation (of the population, no correction) of the brain voxels of one image."""

    mean: float
    std: float


def statistics(image: npt.NDArray[Any], brain: BoolArray, *, name: str) -> Statistics:
    """Statistics of the brain voxels, summed in float64 in canonical order.

    image, brain: one shape. name: of the image, for error lines.
    Raises VolumeError where the brain is empty or the image constant in it.
    """
    values = image[brain].astype(np.float64)
    if values.size == 0:
        raise VolumeError(
            f"{name}: no brain voxel: the image is 0 (or its brain mask empty) everywhere; check the file"
        )
    mean = float(values.mean())
    std = float(values.std())
    if std == 0 or values.min() == values.max():
        raise VolumeError(
            f"{name}: constant: all {values.size} brain voxels are {values[0]:g}, expected an image; check the file"
        )
    return Statistics(mean, std)


def normalise(
    image: npt.NDArray[Any], brain: BoolArray, *, shift: float, scale: float, zero_outside: bool
) -> FloatArray:
    """(image - shift) / scale in float32; 0 outside the brain where asked for.

    image, brain: one shape. Raises nothing: `statistics` has refused what cannot be divided by.
    """
    result: FloatArray = np.subtract(image, np.float32(shift), dtype=np.float32, order="C")
    result /= np.float32(scale)
    if zero_outside:
        np.copyto(result, np.float32(0), where=~brain)
    return result
