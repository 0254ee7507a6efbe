"""Writing one case of `patches3d` to its shard: the normalised volume once, and the voxels to cut patches around.

    image              (X, Y, Z, C) float32, normalised, on the scan's own canonical grid; a chunk a place on x
    candidates         (K, 3) int32, voxels that may be lesion; candidate_labels (K,) uint8, 1 where they are
    lesions            (L, 3) int32, every lesion voxel
    scan_mask          (X, Y, Z) uint8, the truth
    attributes         schema_version, kind, case, recipe_hash, sources, scan_grid, patch_size, brain_source, intensity

and, where the recipe materialises patches, those around every lesion voxel and around drawn negatives, in random order,
so that any run of them is a fair sample of the case:

    patches            (M, x, y, z, C) float32 or float16, PATCHES_A_CHUNK to a chunk
    patch_centres      (M, 3) int32;  patch_labels (M,) uint8

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
from mspipeline.patches.sampling import CaseVoxels, PatchSelection, first_stage
from mspipeline.preprocess.patches3d import PatchCase
from mspipeline.shards.manifest import PatchEntry
from mspipeline.shards.writer import Source, chunk_options, in_memory, store, write_intensity, write_origin

log = logging.getLogger(__name__)

PATCHES_A_CHUNK = 128
"""2 MB of 3 x 11^3 float32: large beside a seek, small beside what a reader holds."""
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


def write_patch_shard(
    shards: Path, case: str, prepared: PatchCase, sources: Mapping[str, Source], *, threads: int = 1
) -> PatchEntry:
    """Write SHARDS/cases/<case>.h5 and return its entry for the manifest.

    prepared: with its lesion mask. sources: as of `write_shard`. threads: that cut patches to be stored.
    The file is built in memory: about two compressed volumes, and where patches are materialised twice these.
    Raises ShapeError where the case has no lesion mask, StorageError where the disk refuses.
    """
    if prepared.lesions is None:
        raise ShapeError(f"{case}: has no lesion mask to store")
    recipe = prepared.recipe
    options = chunk_options(recipe.compression)
    voxels = case_voxels(prepared)
    chosen = _materialised(case, prepared, voxels)
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
        if chosen is not None:
            _write_patches(file, prepared, chosen, options, threads)
        write_origin(file, case, recipe.hash, sources, prepared.grid)
        file.attrs["kind"] = recipe.kind
        file.attrs["patch_size"] = np.array(recipe.patch_size, np.int64)
        write_intensity(file, prepared.brain_source, prepared.intensity)
        stored = store(shards, case, file)
    _say_what_training_leaves_out(case, voxels)
    return PatchEntry(
        **stored.model_dump(),
        image_shape=recipe.image_shape,
        volume_shape=shape[:3],
        candidates=len(voxels.candidates),
        lesion_voxels=len(voxels.lesions),
        patches=0 if chosen is None else len(chosen),
    )


def _materialised(case: str, prepared: PatchCase, voxels: CaseVoxels) -> PatchSelection | None:
    """The patches to store, in random order; None where the recipe stores none."""
    if prepared.recipe.materialise == "none":
        return None
    chosen = first_stage(voxels, case=case, seed=0, negatives=prepared.recipe.materialised_negatives)
    return chosen.take(np.random.Generator(np.random.PCG64(0)).permutation(len(chosen)))


def _write_patches(
    file: Any, prepared: PatchCase, chosen: PatchSelection, options: dict[str, Any], threads: int
) -> None:
    from mspipeline.patches.gather import gather  # loads numba, which most prepares do without

    recipe = prepared.recipe
    shape = (len(chosen), *recipe.image_shape)
    dtype = np.dtype(recipe.materialise)
    chunks = {"chunks": (min(PATCHES_A_CHUNK, len(chosen)), *recipe.image_shape), **options} if len(chosen) else {}
    patches = file.create_dataset("patches", shape, dtype, **chunks)
    for first in range(0, len(chosen), PATCHES_A_CHUNK):
        centres = chosen.centres[first : first + PATCHES_A_CHUNK]
        patches[first : first + len(centres)] = gather(prepared.image, centres, recipe.patch_size, threads=threads)
    _rows(file, "patch_centres", chosen.centres, options)
    _rows(file, "patch_labels", chosen.labels, options)


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
