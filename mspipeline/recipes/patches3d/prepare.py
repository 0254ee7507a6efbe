"""Scans of a case to one normalised volume, on the scans' own grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mspipeline.errors import DatasetError, VolumeError
from mspipeline.grid import TransformChain
from mspipeline.preprocess.brain import BrainOrigin, BrainSource, brain_origin
from mspipeline.preprocess.intensity import Statistics, normalise, statistics
from mspipeline.preprocess.lesion_counts import LesionCounts, count, counts
from mspipeline.preprocess.resample_onto import case_reader
from mspipeline.preprocess.spatial import require_same_grid
from mspipeline.recipes.patches3d.schema import PatchSchema
from mspipeline.volume import BoolArray, FloatArray, ScanGrid


@dataclass(frozen=True)
class PatchCase:
    """One case, normalised. image: (X, Y, Z, C) float32, C-contiguous, on the canonical axes of `grid`.

    brain: (X, Y, Z), the brain voxels of the modality that candidates are taken from. Whatever a scan holds outside its
    brain (a skull, where there is a mask) was taken for 0. lesions: (X, Y, Z), None where the case has no lesion mask.
    brain_origin: where the brain comes from. intensity: modality -> statistics of the brain before normalising.
    counts: of the lesions, as drawn and on the scan's grid; None where there is no lesion mask.
    """

    recipe: PatchSchema
    image: FloatArray
    brain: BoolArray
    lesions: BoolArray | None
    grid: ScanGrid
    brain_origin: BrainOrigin
    intensity: Mapping[str, Statistics]
    counts: LesionCounts | None = None

    @property
    def brain_source(self) -> BrainSource:
        return self.brain_origin.source


def apply_files(
    recipe: PatchSchema,
    scans: Mapping[str, Path],
    brain: Path | None = None,
    *,
    lesions: Path | None = None,
    chains: Mapping[str, TransformChain] | None = None,
    strays: Mapping[str, str] | None = None,
) -> PatchCase:
    """Read and normalise the scans of one case.

    scans: modality -> file, at least those the recipe names. brain, lesions: masks, where the case has them.
    chains: transforms from the space of the recipe's `resample_to` to that of a file; without effect where it is unset.
    strays: files whose names declare a space to which no transform leads.
    Raises DatasetError where the grids differ or a brain mask is wanted and absent; VolumeError as `load_volume`, and
    where an image is constant or has no brain.
    """
    first = recipe.modalities[0]
    if recipe.brain == "mask" and brain is None:
        raise DatasetError(
            f"{scans[first]}: the recipe sets brain = 'mask' but the case has no brain mask; "
            "add derivatives/*/.../*_desc-brain_mask.nii.gz or set brain = 'auto'"
        )
    grid: ScanGrid | None = None
    reader = case_reader(recipe.resample_to, recipe.modalities, scans, chains, strays)
    mask = reader.mask("brain", brain) if brain is not None and recipe.brain != "nonzero" else None
    image = np.empty(0, np.float32)
    inside = np.empty(0, bool)
    intensity: dict[str, Statistics] = {}
    for channel, modality in enumerate(recipe.modalities):
        volume = reader.volume(modality, scans[modality])
        if grid is None:
            grid = volume.grid
            image = np.empty((*volume.data.shape, len(recipe.modalities)), np.float32)
            if mask is not None:
                require_same_grid(str(scans[first]), grid, str(brain), mask.grid)
        require_same_grid(str(scans[first]), grid, str(scans[modality]), volume.grid)
        voxels = volume.data != 0 if mask is None else mask.data
        stats = intensity[modality] = statistics(volume.data, voxels, name=str(scans[modality]))
        stripped = np.where(voxels, volume.data, np.float32(0))
        scale = stats.std if recipe.spread == "brain" else float(stripped.std(dtype=np.float64))
        image[..., channel] = normalise(
            stripped, voxels, shift=stats.mean, scale=scale, zero_outside=recipe.zero_outside_brain
        )
        if modality == recipe.candidates_of:
            inside = voxels
    if grid is None:
        raise VolumeError("the recipe names no modality")
    truth = lesion_counts = None
    if lesions is not None:
        truth, placing = reader.placed_mask("lesions", lesions, threshold=recipe.mask_threshold)
        require_same_grid(str(scans[first]), grid, str(lesions), truth.grid)
        lesion_counts = counts(count(truth.data, grid.voxel_ml), placing)
    return PatchCase(
        recipe,
        image,
        inside,
        None if truth is None else truth.data,
        grid,
        brain_origin("nonzero" if mask is None else "mask", inside, None if truth is None else truth.data),
        intensity,
        lesion_counts,
    )
