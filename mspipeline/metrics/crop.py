"""Checks that two masks can be compared, and the part of the grid that holds them: most of a brain has no lesion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mspipeline.errors import ShapeError

BoolArray = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]


def check_masks(truth: BoolArray, prediction: BoolArray) -> None:
    """Raise ShapeError where two masks are not (X, Y, Z) on one grid, TypeError where one is not bool."""
    if truth.shape != prediction.shape:
        raise ShapeError(
            f"truth of shape {truth.shape} and prediction of shape {prediction.shape}; "
            "bring the prediction back to the grid of the truth first"
        )
    if truth.ndim != 3:
        raise ShapeError(f"masks of shape {truth.shape}, expected (X, Y, Z)")
    if truth.dtype != np.bool_ or prediction.dtype != np.bool_:
        raise TypeError(f"masks of {truth.dtype} and {prediction.dtype}, expected bool; compare with a threshold first")


def check_spacing(spacing_mm: Sequence[float]) -> None:
    """Raise ValueError where a spacing is not three positive lengths."""
    if len(spacing_mm) != 3 or not all(np.isfinite(size) and size > 0 for size in spacing_mm):
        raise ValueError(f"spacing_mm {tuple(spacing_mm)}, expected three lengths above 0, in mm")


def bounding_box(mask: BoolArray) -> Box | None:
    """The smallest box that holds all voxels of an (X, Y, Z) mask; None where it is empty."""
    box: list[slice] = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        if not filled.size:
            return None
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
        mask = mask[tuple(box[axis] if at == axis else slice(None) for at in range(3))]  # the next axes read less
    return (box[0], box[1], box[2])


def common_box(truth: BoolArray, prediction: BoolArray) -> Box | None:
    """The smallest box that holds all voxels of both masks; None where both are empty."""
    boxes = [box for box in (bounding_box(truth), bounding_box(prediction)) if box is not None]
    if not boxes:
        return None
    x, y, z = (slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3))
    return (x, y, z)
