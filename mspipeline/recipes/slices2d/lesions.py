"""What is left of a case's lesions in its slices, counted as they are resampled, without resampling the whole mask."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt

from mspipeline.preprocess.lesion_counts import LesionCounts, Placing, count, counts, label
from mspipeline.preprocess.spatial import coordinates, resample
from mspipeline.recipes.slices2d.schema import SliceSchema
from mspipeline.volume import BoolArray, ScanGrid

Index = npt.NDArray[np.int64]


def slice_counts(
    lesions: BoolArray,
    grid: ScanGrid,
    recipe: SliceSchema,
    slice_index: npt.NDArray[np.int32],
    *,
    placing: Placing | None,
) -> LesionCounts:
    """Lesions as they were drawn, on the scan's grid, and in the slices.

    lesions: (X, Y, Z) on the canonical axes of `grid`. slice_index: (S,) places that are kept. placing: what became of
    the mask on its way to the scan's grid, None where it was drawn there. Slices that lose lesions are no error: scores
    are counted on the scan's grid, and how coarse slices are is the recipe's choice.
    """
    labels = label(lesions)
    numbers = int(labels.max(initial=0))
    stored_ml = grid.voxel_ml * math.prod(lesions.shape) / math.prod(recipe.size)
    nearest = [_nearest(n, size) for n, size in zip(lesions.shape, recipe.size, strict=True)]
    wanted: list[Index] = []
    for axis, index in enumerate(nearest):
        others = tuple(other for other in range(3) if other != axis)
        hit: BoolArray = np.asarray(lesions.any(axis=others))
        # One place more on either side: a linearly interpolated mask may reach that far.
        near = np.convolve(hit[index], [1, 1, 1], "same") > 0
        if axis == recipe.axis:
            near &= np.isin(np.arange(len(index)), slice_index)
        wanted.append(np.flatnonzero(near))
    if recipe.mask_order == 0:
        stored = labels[np.ix_(*(index[places] for index, places in zip(nearest, wanted, strict=True)))]
        mask, kept = stored > 0, np.unique(stored)
    else:
        whole = resample(lesions.astype(np.float32), recipe.size, order=1) >= 0.5
        mask = whole[np.ix_(*wanted)]
        at = np.nonzero(mask)
        sides = [_sides(n, size) for n, size in zip(lesions.shape, recipe.size, strict=True)]
        places = [choice[at_axis] for choice, at_axis in zip(wanted, at, strict=True)]
        corners = (
            labels[tuple(side[place] for side, place in zip(chosen, places, strict=True))]
            for chosen in itertools.product(*sides)
        )
        kept = np.unique(np.concatenate(list(corners)))
    lost = numbers - int(np.count_nonzero(kept))
    return counts(count(lesions, grid.voxel_ml), placing, stored=count(mask, stored_ml), lost_in_slices=lost)


def _nearest(n: int, size: int) -> Index:
    """(size,) the voxel of an axis of n that each place of the resampled axis takes, as `resample` takes it."""
    index: Index = resample(np.arange(n).reshape(n, 1, 1), (size, 1, 1), order=0).ravel()
    return index


def _sides(n: int, size: int) -> tuple[Index, Index]:
    """(size,) the voxels of an axis of n between which each place lies."""
    places = np.clip(coordinates(n, size), 0, n - 1)
    return np.floor(places).astype(np.int64), np.ceil(places).astype(np.int64)
