"""The shard of a case of `patches3d`: the normalised volume once, and the voxels to cut patches around.

    image              (X, Y, Z, C) float32, normalised, on the scan's own canonical grid; a chunk a place on x
    candidates         (K, 3) int32, voxels that may be lesion; candidate_labels (K,) uint8, 1 where they are
    lesions            (L, 3) int32, every lesion voxel
    scan_mask          (X, Y, Z) uint8, the truth
    attributes         those of every shard (see `shards.writer`), kind, patch_size

Voxels are in the order of memory; equal cases give equal bytes.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, model_validator

from mspipeline.errors import ShapeError
from mspipeline.patches.candidates import candidates
from mspipeline.patches.sampling import CaseVoxels
from mspipeline.recipes.patches3d.prepare import PatchCase
from mspipeline.shards.manifest import ShardEntry
from mspipeline.shards.reader import UNREADABLE, damaged, open_shard
from mspipeline.shards.writer import (
    Source,
    StoredShard,
    chunk_options,
    describe,
    in_memory,
    store,
    write_counts,
    write_intensity,
    write_origin,
)
from mspipeline.volume import BoolArray, FloatArray, ScanGrid

log = logging.getLogger(__name__)

VOXELS_A_CHUNK = 1 << 16


class PatchEntry(ShardEntry):
    """A shard of a volume and of the voxels to cut patches around, in the manifest.

    image_shape: (x, y, z, C) of a patch. volume_shape: (X, Y, Z) of the volume, on the scan's own grid.
    candidates, lesion_voxels: voxels that may be lesion, and that are; not each of these is a candidate.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Literal["patches3d"] = "patches3d"
    image_shape: tuple[int, int, int, int]
    volume_shape: tuple[int, int, int]
    candidates: int
    lesion_voxels: int

    @model_validator(mode="before")
    @classmethod
    def _without_stored_patches(cls, entry: Any) -> Any:
        """Version 0.1 counted patches that it had stored beside the volume; nothing reads them."""
        return {key: value for key, value in entry.items() if key != "patches"} if isinstance(entry, dict) else entry

    @property
    def volume_bytes(self) -> int:
        """Of the volume in memory, float32."""
        return 4 * self.image_shape[3] * math.prod(self.volume_shape)


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


def read_patch_entry(stored: StoredShard) -> PatchEntry:
    """The entry of a shard that is on disk. Raises ShardError where it is damaged, or none of patches."""
    return PatchEntry.model_validate(describe(stored, _own_keys))


def _own_keys(file: Any) -> dict[str, Any]:
    x, y, z, channels = file["image"].shape
    if file["scan_mask"].shape != (x, y, z) or len(file["candidates"]) != len(file["candidate_labels"]):
        raise ValueError("its parts do not fit together")
    return {
        "image_shape": (*(int(voxels) for voxels in file.attrs["patch_size"]), channels),
        "volume_shape": (x, y, z),
        "candidates": len(file["candidates"]),
        "lesion_voxels": len(file["lesions"]),
    }


@dataclass(frozen=True)
class PatchShard:
    """One whole case. image: (X, Y, Z, C) float32, normalised. scan_mask: (X, Y, Z), the truth; both on `grid`'s
    canonical axes.
    """

    case: str
    image: FloatArray
    voxels: CaseVoxels
    scan_mask: BoolArray
    grid: ScanGrid


def read_patch_case(shards: Path, entry: PatchEntry) -> PatchShard:
    """One case whole. Raises ShardError where its shard is missing, damaged or of another case."""
    path = shards / entry.file
    try:
        with open_volume(path, entry) as file:
            return PatchShard(
                case=entry.case,
                image=file["image"][...],
                voxels=_voxels(file),
                scan_mask=file["scan_mask"][...].astype(bool),
                grid=ScanGrid.from_json(json.loads(file.attrs["scan_grid"])),
            )
    except UNREADABLE as error:
        raise damaged(path, entry, error) from error


def read_voxels(shards: Path, entry: PatchEntry) -> CaseVoxels:
    """Candidates and lesion voxels of a case, without its volume. Raises as `read_patch_case`."""
    path = shards / entry.file
    try:
        with open_volume(path, entry) as file:
            return _voxels(file)
    except UNREADABLE as error:
        raise damaged(path, entry, error) from error


def open_volume(path: Path, entry: PatchEntry) -> Any:
    """A shard of a volume, open. Raises as `open_shard`."""
    return open_shard(path, entry, (*entry.volume_shape, entry.image_shape[3]))


def _voxels(file: Any) -> CaseVoxels:
    return CaseVoxels(file["candidates"][...], file["candidate_labels"][...], file["lesions"][...])
