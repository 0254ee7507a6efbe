"""Volume: one 3-D image in canonical orientation, with the way back to the grid it came from.

Canonical is RAS+: axis 0 runs to the patient's right, axis 1 to anterior, axis 2 to superior. Only axes are swapped and
flipped on the way in, never interpolated, so the way back is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel import orientations

from mspipeline.errors import ShapeError, VolumeError
from mspipeline.grid import ScanGrid
from mspipeline.images.registry import read_grid, read_image, write_image
from mspipeline.labels import LabelSet

__all__ = [
    "BoolArray",
    "FloatArray",
    "ScanGrid",
    "Volume",
    "load_grid",
    "load_labels",
    "load_mask",
    "load_volume",
    "save_volume",
    "to_scan_grid",
]

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

MASK_TOLERANCE = 1e-3
"""Values this near 0 and 1 are 0 and 1: 0.9999999 of a resampled mask, 1.0000001 of scaled whole numbers."""


@dataclass(frozen=True)
class Volume:
    """data: (X, Y, Z) in canonical orientation; grid: that of the file it came from, or of one on the same grid."""

    data: npt.NDArray[Any]
    grid: ScanGrid


def load_grid(path: Path) -> ScanGrid:
    """The grid of an image; its voxels are not read. Raises VolumeError as `load_volume` does for the header."""
    return read_grid(path)


def load_volume(path: Path, *, like: ScanGrid | None = None) -> Volume:
    """Read an image as float32 in canonical orientation.

    like: the grid of another file of the case: where this one is on it, it is oriented as that one and has its grid.
    Raises VolumeError where the file is missing, truncated, damaged, not an image of a known format, not 3-D, has a
    header that cannot be used, or holds NaN or infinity.
    """
    grid, data = read_image(path)
    if not np.isfinite(data).all():
        count = int(np.size(data) - np.isfinite(data).sum())
        raise VolumeError(f"{path}: {count} voxels are NaN or infinite, expected finite numbers; repair the image")
    turn = None if like is None else grid.turn_onto(like)
    if like is not None and turn is not None:
        return Volume(orientations.apply_orientation(data, turn), like)
    return Volume(orientations.apply_orientation(data, grid.to_canonical), grid)


def load_mask(
    path: Path, *, threshold: float | None = None, like: ScanGrid | None = None, remedy: str | None = None
) -> Volume:
    """Read a binary mask as bool in canonical orientation.

    threshold: where given, voxels above it are in the mask; else the image must hold 0 and 1 only, up to
    MASK_TOLERANCE. Empty is legal. like: as of `load_volume`. remedy: what to do about a mask that is not binary.
    Raises VolumeError as `load_volume`, and where the mask is not binary.
    """
    volume = load_volume(path, like=like)
    if threshold is not None:
        return Volume(volume.data > threshold, volume.grid)
    mask = np.abs(volume.data - 1) <= MASK_TOLERANCE
    if not (mask | (np.abs(volume.data) <= MASK_TOLERANCE)).all():
        values = np.unique(volume.data)
        shown = ", ".join(f"{value:g}" for value in values[:5]) + (", ..." if len(values) > 5 else "")
        raise VolumeError(
            f"{path}: not a binary mask: holds {len(values)} values ({shown}), expected 0 and 1; "
            + (remedy or "set `mask_threshold` in the recipe if voxels above a value are meant")
        )
    return Volume(mask, volume.grid)


def load_labels(path: Path, labels: LabelSet, *, like: ScanGrid | None = None) -> Volume:
    """Read a label map as uint8 in canonical orientation.

    like: as of `load_volume`. Numbers within MASK_TOLERANCE of a label's are that label's. Raises VolumeError as
    `load_volume`, and where the map holds a number that no label has.
    """
    volume = load_volume(path, like=like)
    whole = np.rint(volume.data)
    if strange := labels.strange(np.where(np.abs(volume.data - whole) <= MASK_TOLERANCE, whole, volume.data)):
        raise VolumeError(f"{path}: {strange}; correct the mask, or name the label in the layout's label set")
    return Volume(whole.astype(np.uint8), volume.grid)


def to_scan_grid(data: npt.NDArray[Any], grid: ScanGrid) -> npt.NDArray[Any]:
    """(X, Y, Z) canonical -> (I, J, K) as the scan's file has it. Raises ShapeError where the shape is another."""
    if data.shape != grid.canonical_shape:
        raise ShapeError(f"volume of shape {data.shape} does not fit the scan's canonical grid {grid.canonical_shape}")
    canonical = np.array([[0, 1], [1, 1], [2, 1]])
    back = orientations.ornt_transform(canonical, grid.to_canonical)
    return np.ascontiguousarray(orientations.apply_orientation(data, back))


def save_volume(path: Path, data: npt.NDArray[Any], grid: ScanGrid) -> None:
    """Write a canonical volume on the grid of the scan it belongs to, in the format of the file's name.

    data: (X, Y, Z) bool (stored as uint8), whole numbers or float32. NIfTI keeps both forms, codes and units of the
    scan. Equal data gives equal bytes. Raises StorageError, and VolumeError for a name of no known format.
    """
    write_image(path, to_scan_grid(data.astype(np.uint8) if data.dtype == bool else data, grid), grid)
