"""Scans of a case to normalised slices.

The same code prepares training cases (with lesion masks) and the scans of a prediction (without).
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mspipeline.errors import ConfigError, DatasetError
from mspipeline.grid import TransformChain
from mspipeline.labels import LESIONS, LabelSet
from mspipeline.preprocess.brain import brain_origin
from mspipeline.preprocess.intensity import Statistics, normalise, statistics
from mspipeline.preprocess.lesion_counts import Placing
from mspipeline.preprocess.resample_onto import CaseReader, case_reader
from mspipeline.preprocess.spatial import coordinates, require_same_grid, to_slices
from mspipeline.recipes.slices2d.case import PreparedCase
from mspipeline.recipes.slices2d.lesions import slice_counts
from mspipeline.recipes.slices2d.schema import SliceSchema
from mspipeline.volume import BoolArray, FloatArray, Volume


def apply(
    recipe: SliceSchema,
    scans: Mapping[str, Volume],
    brain: Volume | None = None,
    *,
    mask: Volume | None = None,
    labels: LabelSet = LESIONS,
    files: Mapping[str, Path] | None = None,
    placing: Placing | None = None,
) -> PreparedCase:
    """Normalise the scans of one case over its brain voxels, ready to be cut into slices.

    scans: modality -> image, at least those the recipe names. brain: bool. mask: of label numbers, uint8 or, of
    lesions, bool; labels: what it can hold.
    files: of the modalities, "brain" and "lesions", for error lines; a modality's own name where absent.
    placing: what became of the lesion mask on its way to this grid, where it was drawn on another.
    Raises DatasetError where a modality is missing, the grids differ, or the recipe wants a brain mask and there is
    none; VolumeError where an image is constant or its brain empty.
    """
    names = {key: str((files or {}).get(key, key)) for key in (*scans, "brain", "lesions")}
    if missing := [modality for modality in recipe.modalities if modality not in scans]:
        raise DatasetError(f"no {' and no '.join(missing)} among {', '.join(scans) or 'no scans'}; the recipe needs it")
    reference = recipe.modalities[0]
    grid = scans[reference].grid
    others = {key: scans[key] for key in recipe.modalities[1:]}
    others |= {key: volume for key, volume in (("brain", brain), ("lesions", mask)) if volume is not None}
    for key, volume in others.items():
        require_same_grid(names[reference], grid, names[key], volume.grid)
    if recipe.brain == "mask" and brain is None:
        raise DatasetError(
            f"{names[reference]}: the recipe sets brain = 'mask' but the case has no brain mask; "
            "add derivatives/*/.../*_desc-brain_mask.nii.gz or set brain = 'auto'"
        )
    use_mask = brain is not None and recipe.brain != "nonzero"
    prepared: dict[str, FloatArray] = {}
    intensity: dict[str, Statistics] = {}
    has_brain = np.zeros(grid.canonical_shape[recipe.axis], bool)
    for modality in recipe.modalities:
        # Slice axis first and contiguous: slices are then resampled from memory in the order they are written.
        image = to_slices(scans[modality].data, recipe.axis)
        voxels = to_slices(brain.data, recipe.axis) if use_mask and brain is not None else image != 0
        stats = statistics(image, voxels, name=names[modality])
        shift, scale = (stats.mean, stats.std) if recipe.normalisation == "zscore" else (0.0, 1.0)
        values = normalise(image, voxels, shift=shift, scale=scale, zero_outside=recipe.zero_outside_brain)
        prepared[modality] = np.moveaxis(values, 0, recipe.axis)  # (S,H,W) -> (X,Y,Z)
        intensity[modality] = stats
        has_brain |= voxels.any(axis=(1, 2))
    slice_index = _slice_index(recipe, has_brain)
    truth = None if mask is None else mask.data.view(np.uint8)
    counts = None
    if truth is not None and labels == LESIONS:
        counts = slice_counts(truth.view(bool), grid, recipe, slice_index, placing=placing)
    brain_voxels = brain.data if use_mask and brain is not None else scans[reference].data != 0
    return PreparedCase(
        recipe=recipe,
        scans=prepared,
        truth=truth,
        labels=labels,
        grid=grid,
        slice_index=slice_index,
        brain_origin=brain_origin(
            "mask" if use_mask else "nonzero", brain_voxels, None if truth is None else truth > 0
        ),
        intensity=intensity,
        counts=counts,
    )


def apply_files(
    recipe: SliceSchema,
    scans: Mapping[str, Path],
    brain: Path | None = None,
    *,
    mask: Path | None = None,
    labels: LabelSet = LESIONS,
    chains: Mapping[str, TransformChain] | None = None,
    strays: Mapping[str, str] | None = None,
) -> PreparedCase:
    """`apply` to the files of one case, read in parallel. Raises as `apply`, `CaseReader.volume`, `mask`
    and `labels`, ConfigError where the recipe has a `mask_threshold` for a label map.

    mask: of `labels`. chains: transforms from the space of the recipe's `resample_to` to that of a file; without
    effect where it is unset.
    strays: files whose names declare a space to which no transform leads.
    """
    reader = case_reader(recipe.resample_to, recipe.modalities, scans, chains, strays)
    brain_used = brain if recipe.brain != "nonzero" else None
    with ThreadPoolExecutor(2, thread_name_prefix="read") as pool:
        reads = {
            modality: pool.submit(reader.volume, modality, scans[modality])
            for modality in recipe.modalities
            if modality in scans
        }
        brain_read = pool.submit(reader.mask, "brain", brain_used) if brain_used else None
        mask_read = pool.submit(_read_mask, reader, recipe, mask, labels) if mask else None
    files = {**scans, **({"brain": brain} if brain else {}), **({"lesions": mask} if mask else {})}
    truth, placing = mask_read.result() if mask_read else (None, None)
    return apply(
        recipe,
        {modality: read.result() for modality, read in reads.items()},
        brain_read.result() if brain_read else None,
        mask=truth,
        labels=labels,
        files=files,
        placing=placing,
    )


def _read_mask(reader: CaseReader, recipe: SliceSchema, mask: Path, labels: LabelSet) -> tuple[Volume, Placing | None]:
    """The mask of a case on the reference's grid, and what became of its lesions on the way."""
    if labels == LESIONS:
        return reader.placed_mask("lesions", mask, threshold=recipe.mask_threshold)
    if recipe.mask_threshold is not None:
        raise ConfigError(
            f"mask_threshold {recipe.mask_threshold:g}: makes lesion masks of values, and {mask} holds label numbers, "
            f"{labels.words}; remove it from the recipe"
        )
    return reader.labels("lesions", mask, labels), None


def _slice_index(recipe: SliceSchema, has_brain: BoolArray) -> npt.NDArray[np.int32]:
    """(S,) places of the slices to keep; a slice has brain where interpolation reaches a scan slice that has."""
    count = recipe.size[recipe.axis]
    if not recipe.drop_slices_without_brain:
        return np.arange(count, dtype=np.int32)
    reach = np.interp(coordinates(len(has_brain), count), np.arange(len(has_brain)), has_brain)
    return np.flatnonzero(reach > 0).astype(np.int32)
