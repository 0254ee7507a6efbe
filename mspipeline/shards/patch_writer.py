"""Writing one case of `patches3d` to its shard: the normalised volume once, and the voxels to cut patches around.

    image              (X, Y, Z, C) float32, normalised, on the scan's own canonical grid; a chunk a place on x
    candidates         (K, 3) int32, voxels that may be lesion; candidate_labels (K,) uint8, 1 where they are
    lesions            (L, 3) int32, every lesion voxel
    scan_mask          (X, Y, Z) uint8, the truth
    attributes         schema_version, kind, case, recipe_hash, sources, scan_grid, patch_size, brain_source, intensity,
                       lesion_counts

Voxels are in the order of memory. Every chunk carries a checksum; equal cases give equal bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.errors import ShapeError
from mspipeline.patches.candidates import candidates
from mspipeline.patches.sampling import CaseVoxels
from mspipeline.preprocess.patches3d import PatchCase
from mspipeline.shards.manifest import PatchEntry
from mspipeline.shards.writer import (
    Source,
    chunk_options,
    in_memory,
    store,
    write_counts,
    write_intensity,
    write_origin,
)

log = logging.getLogger(__name__)

VOXELS_A_CHUNK = 1 << 16


def case_voxels(prepared: PatchCase) -> CaseVoxels:
    """Candidates and lesion voxels of a case; a case without a lesion mask has candidates alone."""
    recipe = prepared.recipe
    places = candidates(
        prepared.image[..., recipe.candidates_channel], recipe.candidates_above, within=prepared.brain
    ).astype(np.int32)
    if prepared.lesions is None:
        return CaseVoxels(places, np.zeros(len(places), np.uint8), np.empty((0, 3), np.int32))
    labels = prepared.lesions[tuple(places.T)].astype(np.uint8)
    return CaseVoxels(places, labels, np.argwhere(prepared.lesions).astype(np.int32))


def write_patch_shard(shards: Path, case: str, prepared: PatchCase, sources: Mapping[str, Source]) -> PatchEntry:
    """Write SHARDS/cases/<case>.h5 and return its entry for the manifest.

    prepared: with its lesion mask. sources: as of `write_shard`.
    The file is built in memory: about two compressed volumes.
    Raises ShapeError where the case has no lesion mask, StorageError where the disk refuses.
    """
    if prepared.lesions is None:
        raise ShapeError(f"{case}: has no lesion mask to store")
    recipe = prepared.recipe
    options = chunk_options(recipe.compression)
    voxels = case_voxels(prepared)
    with in_memory(case) as file:
        shape = prepared.image.shape
        image = file.create_dataset("image", shape, "f4", chunks=(1, *shape[1:]), **options)
        for x, plane in enumerate(prepared.image):
            if plane.any():
                image[x] = plane
        _rows(file, "candidates", voxels.candidates, options)
        _rows(file, "candidate_labels", voxels.labels, options)
        _rows(file, "lesions", voxels.lesions, options)
        truth = np.ascontiguousarray(prepared.lesions).view(np.uint8)
        file.create_dataset("scan_mask", data=truth, chunks=(1, *truth.shape[1:]), **options)
        write_origin(file, case, recipe.hash, sources, prepared.grid)
        file.attrs["kind"] = recipe.kind
        file.attrs["patch_size"] = np.array(recipe.patch_size, np.int64)
        write_intensity(file, prepared.brain_origin, prepared.intensity)
        write_counts(file, prepared.counts)
        stored = store(shards, case, file)
    _say_what_training_leaves_out(case, voxels)
    return PatchEntry(
        **{**stored.model_dump(), "counts": prepared.counts},
        image_shape=recipe.image_shape,
        volume_shape=shape[:3],
        candidates=len(voxels.candidates),
        lesion_voxels=len(voxels.lesions),
    )


def _rows(file: Any, name: str, values: npt.NDArray[Any], options: dict[str, Any]) -> None:
    """A dataset of one row a voxel, which may have none."""
    if not len(values):
        file.create_dataset(name, data=values, track_times=False)
        return
    chunks = (min(VOXELS_A_CHUNK, len(values)), *values.shape[1:])
    file.create_dataset(name, data=values, chunks=chunks, **{**options, "shuffle": True})


def _say_what_training_leaves_out(case: str, voxels: CaseVoxels) -> None:
    if not len(voxels.candidates):
        log.warning("case without candidates case=%s: no voxel is bright enough; predictions of it are empty", case)
    if not len(voxels.lesions):
        log.warning("case without lesions case=%s: training leaves it out", case)
