"""The shard of a case of `slices2d`: every slice that a network sees, and the truth on the scan's own grid.

image         (S, H, W, C) float32, one chunk a slice; slices of zeros take no room
mask          (S, H, W) uint8, label numbers, one chunk a slice
slice_index   (S,) int32, places on the resampled volume's slice axis
scan_mask     (X, Y, Z) uint8, the truth on the scan's own canonical grid
attributes    those of every shard (see `shards.writer`), volume_shape, lesion_voxels, lesion_slices; of other labels
              than lesions: label_voxels
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict

from mspipeline.errors import ShapeError
from mspipeline.labels import LESIONS, LabelMap
from mspipeline.recipes.slices2d.case import PreparedCase
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
from mspipeline.volume import ScanGrid


class SliceEntry(ShardEntry):
    """A shard of slices, in the manifest.

    slices: S of the shard's `image` (S, H, W, C); image_shape: its (H, W, C).
    lesion_voxels, lesion_slices: with any label in the stored mask, on the resampled grid; 0 in a healthy case.
    """

    model_config = ConfigDict(extra="forbid")

    slices: int
    image_shape: tuple[int, int, int]
    lesion_voxels: int
    lesion_slices: int


def write_slices(
    shards: Path, case: str, prepared: PreparedCase, sources: Mapping[str, Source], *, threads: int = 1
) -> SliceEntry:
    """Write SHARDS/cases/<case>.h5 and return its entry for the manifest.

    prepared: with its mask. sources: modality, "lesions" and, where used, "brain" -> file.
    threads: that resample slices while others are compressed; the bytes do not depend on it.
    The file is built in memory (a compressed case) and handed to the disk in one piece: HDF5 on a full disk fails in
    ways it does not report at the write that failed.
    Raises ShapeError where the case has no mask or no slice, StorageError where the disk refuses.
    """
    if prepared.truth is None or not len(prepared.slice_index):
        raise ShapeError(f"{case}: has no {'slices' if prepared.truth is not None else 'mask'} to store")
    slices = len(prepared.slice_index)
    height, width, channels = prepared.image_shape
    options = chunk_options(prepared.recipe.compression)
    with in_memory(case) as file:
        image = file.create_dataset(
            "image", (slices, height, width, channels), "f4", chunks=(1, height, width, channels), **options
        )
        mask = file.create_dataset("mask", (slices, height, width), "u1", chunks=(1, height, width), **options)
        lesion_voxels = lesion_slices = 0
        label_voxels: Counter[str] = Counter(dict.fromkeys(prepared.labels.foreground, 0))
        for block in prepared.blocks(threads=threads):
            for place, pixels in enumerate(block.images, start=block.first):
                if pixels.any():
                    image[place] = pixels
            for place, labels in enumerate(() if block.mask is None else block.mask, start=block.first):
                if voxels := int(np.count_nonzero(labels)):
                    mask[place] = labels
                    lesion_voxels += voxels
                    lesion_slices += 1
                    label_voxels.update(prepared.labels.voxels(labels))
        file.create_dataset("slice_index", data=prepared.slice_index, track_times=False)
        truth = np.ascontiguousarray(prepared.truth)
        file.create_dataset("scan_mask", data=truth, chunks=(1, *truth.shape[1:]), **options)
        write_origin(file, case, prepared.recipe.hash, sources, prepared.grid)
        file.attrs["volume_shape"] = np.array(prepared.volume_shape, np.int64)
        write_intensity(file, prepared.brain_origin, prepared.intensity)
        write_counts(file, prepared.counts)
        file.attrs["lesion_voxels"] = lesion_voxels
        file.attrs["lesion_slices"] = lesion_slices
        if prepared.labels != LESIONS:
            file.attrs["label_voxels"] = json.dumps(label_voxels, sort_keys=True)
        stored = store(shards, case, file)
    return SliceEntry(
        **{**stored.model_dump(), "counts": prepared.counts},
        label_voxels=None if prepared.labels == LESIONS else dict(label_voxels),
        slices=slices,
        image_shape=prepared.image_shape,
        lesion_voxels=lesion_voxels,
        lesion_slices=lesion_slices,
    )


def read_slice_entry(stored: StoredShard) -> SliceEntry:
    """The entry of a shard that is on disk. Raises ShardError where it is damaged, or none of slices."""
    return SliceEntry.model_validate(describe(stored, _own_keys))


def _own_keys(file: Any) -> dict[str, Any]:
    slices, height, width, channels = file["image"].shape
    if file["mask"].shape != (slices, height, width) or "scan_mask" not in file:
        raise ValueError("its mask does not fit its image")
    return {
        "slices": slices,
        "image_shape": (height, width, channels),
        "lesion_voxels": int(file.attrs["lesion_voxels"]),
        "lesion_slices": int(file.attrs["lesion_slices"]),
        "label_voxels": json.loads(voxels) if (voxels := file.attrs.get("label_voxels")) else None,
    }


@dataclass(frozen=True)
class SliceShard:
    """One whole case.

    images: (S, H, W, C) float32. slice_index: (S,) int32, the place of each on the slice axis of a resampled volume of
    `volume_shape` (X, Y, Z). scan_mask: the truth, label numbers, on the canonical axes of `grid`, the scan's own.
    """

    case: str
    images: npt.NDArray[np.float32]
    slice_index: npt.NDArray[np.int32]
    volume_shape: tuple[int, int, int]
    scan_mask: LabelMap
    grid: ScanGrid


def read_slices(shards: Path, entry: SliceEntry) -> SliceShard:
    """One case whole. Raises ShardError where its shard is missing, damaged or of another case."""
    path = shards / entry.file
    try:
        with open_slices(path, entry) as file:
            x, y, z = (int(size) for size in file.attrs["volume_shape"])
            return SliceShard(
                case=entry.case,
                images=file["image"][...],
                slice_index=file["slice_index"][...],
                volume_shape=(x, y, z),
                scan_mask=file["scan_mask"][...],
                grid=ScanGrid.from_json(json.loads(file.attrs["scan_grid"])),
            )
    except UNREADABLE as error:
        raise damaged(path, entry, error) from error


def open_slices(path: Path, entry: SliceEntry) -> Any:
    """A shard of slices, open. Raises as `open_shard`."""
    return open_shard(path, entry, (entry.slices, *entry.image_shape))
