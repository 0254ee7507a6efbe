"""Resampling between a scan's canonical grid and the grid a network sees, and slices to volumes and back.

Both grids cover the same field of view, voxels are boxes: output voxel k of N lies at input coordinate
(k + 1/2) n/N - 1/2, as in `scipy.ndimage.zoom(grid_mode=True)`; coordinates beyond the first and last voxel centre take
that voxel's value (`mode="nearest"`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mspipeline.errors import DatasetError, ShapeError
from mspipeline.grid import apart
from mspipeline.labels import LabelMap
from mspipeline.volume import FloatArray, ScanGrid


def require_same_grid(name: str, grid: ScanGrid, other_name: str, other: ScanGrid) -> None:
    """Raises DatasetError naming both files and both grids where they differ."""
    if not grid.same_as(other):
        raise DatasetError(
            f"{name} ({grid.describe()}) and {other_name} ({other.describe()}) are on different grids, "
            f"{apart(grid, other)}; "
            "resample one to the other, or take the pair that belongs together"
        )


def coordinates(n: int, N: int) -> npt.NDArray[np.float64]:
    """(N,) positions of N output voxels on an axis of n input voxels, in input voxels."""
    return (np.arange(N, dtype=np.float64) + 0.5) * (n / N) - 0.5


def resample(
    array: npt.NDArray[Any],
    size: Sequence[int],
    *,
    order: Literal[0, 1],
    rows: tuple[int, int] | None = None,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """`array` on a grid of `size` voxels over the same field of view.

    array: (X, Y, Z), float or integer. order: 0 nearest, 1 linear. rows: only these of the result's first axis, first
    and one past the last. out: written to where given, of the result's shape.
    Where the shape is already `size`, values are copied, not interpolated.
    """
    first, end = rows or (0, size[0])
    if out is None:
        out = np.empty((end - first, *size[1:]), array.dtype)
    if array.shape == tuple(size):
        out[...] = array[first:end]
        return out
    scale = np.array([n / N for n, N in zip(array.shape, size, strict=True)])
    offset = 0.5 * scale - 0.5
    offset[0] += first * scale[0]
    ndimage.affine_transform(array, scale, offset, output=out, order=order, mode="nearest", prefilter=False)
    return out


def resample_labels(
    array: LabelMap, size: Sequence[int], numbers: Sequence[int], *, order: Literal[0, 1], rows: tuple[int, int]
) -> LabelMap:
    """`resample` of a label map: every value of the result is one of it.

    numbers: of the labels but the background, 0. order: 0 takes the nearest voxel. 1 interpolates each label's share
    linearly, and the largest share wins; of equal shares the label wins over the background, and of two labels the one
    with the higher number. With one label that is: where its share is at least one half.
    """
    if order == 0:
        return resample(array, size, order=0, rows=rows)
    shares = {number: resample((array == number).astype(np.float32), size, order=1, rows=rows) for number in numbers}
    best = 1 - sum(shares.values(), np.float32(0))  # of the background; exact where a share is at least one half
    found = np.zeros(best.shape, np.uint8)
    for number, share in shares.items():
        wins = share >= best
        found[wins] = number
        best = np.where(wins, share, best)
    return found


def to_slices(volume: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """(X, Y, Z) -> (S, H, W): a view with the slice axis first, the others in their order."""
    return np.moveaxis(volume, axis, 0)


def from_slices(
    slices: npt.NDArray[Any], slice_index: npt.NDArray[np.int32], volume_shape: Sequence[int], axis: int
) -> npt.NDArray[Any]:
    """(S, H, W) -> (X, Y, Z) of `volume_shape`; slices that are not there are 0.

    slice_index: (S,) places on the volume's slice axis. Raises ShapeError where the slices do not fit.
    """
    volume = np.zeros(tuple(volume_shape), slices.dtype)
    by_slice = np.moveaxis(volume, axis, 0)
    if slices.shape[1:] != by_slice.shape[1:] or len(slices) != len(slice_index):
        raise ShapeError(
            f"{slices.shape[0]} slices of {slices.shape[1:]} with {len(slice_index)} places do not fit a volume of "
            f"{tuple(volume_shape)} sliced along axis {axis}"
        )
    by_slice[slice_index] = slices
    return volume


def back_to_scan(
    values: npt.NDArray[Any], volume_shape: Sequence[int], grid: ScanGrid, *, order: Literal[0, 1] = 1
) -> FloatArray:
    """Values on the resampled grid -> (X, Y, Z) float32 on the scan's canonical grid: the inverse of `resample`.

    values: (X, Y, Z) of `volume_shape`, such as probabilities. Raises ShapeError where they are not.
    """
    if values.shape != tuple(volume_shape):
        raise ShapeError(f"values of shape {values.shape} are not on the resampled grid {tuple(volume_shape)}")
    return resample(values.astype(np.float32, copy=False), grid.canonical_shape, order=order)
