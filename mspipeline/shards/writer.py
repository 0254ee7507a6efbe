"""Writing one case to its shard: a self-contained HDF5 file, whole or not at all, the same bytes for the same case.

    image         (S, H, W, C) float32, one chunk a slice; slices of zeros take no room
    mask          (S, H, W) uint8, one chunk a slice
    slice_index   (S,) int32, places on the resampled volume's slice axis
    scan_mask     (X, Y, Z) uint8, the truth on the scan's own canonical grid
    attributes    schema_version, case, recipe_hash, sources, scan_grid, volume_shape, brain_source, brain_origin,
                  intensity, lesion_voxels, lesion_slices, lesion_counts

Every chunk carries a checksum (fletcher32): a damaged one is noticed when it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mspipeline import hdf5
from mspipeline.errors import ShapeError, ShardError
from mspipeline.files import sha256_file, write_bytes
from mspipeline.preprocess.brain import BrainOrigin
from mspipeline.preprocess.intensity import Statistics
from mspipeline.preprocess.lesion_counts import LesionCounts
from mspipeline.preprocess.prepared import PreparedCase
from mspipeline.shards.manifest import REMEDY, CaseEntry, PatchEntry, ShardEntry, shard_path
from mspipeline.volume import ScanGrid

SCHEMA_VERSION = 1
GROWTH_BYTES = 16 << 20
"""The in-memory file grows by this much at a time."""

COMPRESSION: dict[str, dict[str, Any]] = {
    "none": {},
    "lzf": {"compression": "lzf"},
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
}


@dataclass(frozen=True)
class Source:
    """A file that a shard was made from. file: relative to the dataset. sha256: of its bytes."""

    file: str
    sha256: str


def write_shard(
    shards: Path, case: str, prepared: PreparedCase, sources: Mapping[str, Source], *, threads: int = 1
) -> CaseEntry:
    """Write SHARDS/cases/<case>.h5 and return its entry for the manifest.

    prepared: with its lesion mask. sources: modality, "lesions" and, where used, "brain" -> file.
    threads: that resample slices while others are compressed; the bytes do not depend on it.
    The file is built in memory (a compressed case) and handed to the disk in one piece: HDF5 on a full disk fails in
    ways it does not report at the write that failed.
    Raises ShapeError where the case has no lesion mask or no slice, StorageError where the disk refuses.
    """
    if prepared.lesions is None or not len(prepared.slice_index):
        raise ShapeError(f"{case}: has no {'slices' if prepared.lesions is not None else 'lesion mask'} to store")
    slices = len(prepared.slice_index)
    height, width, channels = prepared.image_shape
    options = chunk_options(prepared.recipe.compression)
    with in_memory(case) as file:
        image = file.create_dataset(
            "image", (slices, height, width, channels), "f4", chunks=(1, height, width, channels), **options
        )
        mask = file.create_dataset("mask", (slices, height, width), "u1", chunks=(1, height, width), **options)
        lesion_voxels = lesion_slices = 0
        for block in prepared.blocks(threads=threads):
            for place, pixels in enumerate(block.images, start=block.first):
                if pixels.any():
                    image[place] = pixels
            for place, lesions in enumerate(() if block.mask is None else block.mask, start=block.first):
                if voxels := int(np.count_nonzero(lesions)):
                    mask[place] = lesions
                    lesion_voxels += voxels
                    lesion_slices += 1
        file.create_dataset("slice_index", data=prepared.slice_index, track_times=False)
        truth = np.ascontiguousarray(prepared.lesions).view(np.uint8)
        file.create_dataset("scan_mask", data=truth, chunks=(1, *truth.shape[1:]), **options)
        write_origin(file, case, prepared.recipe.hash, sources, prepared.grid)
        file.attrs["volume_shape"] = np.array(prepared.volume_shape, np.int64)
        write_intensity(file, prepared.brain_origin, prepared.intensity)
        write_counts(file, prepared.counts)
        file.attrs["lesion_voxels"] = lesion_voxels
        file.attrs["lesion_slices"] = lesion_slices
        stored = store(shards, case, file)
    return CaseEntry(
        **{**stored.model_dump(), "counts": prepared.counts},
        slices=slices,
        image_shape=prepared.image_shape,
        lesion_voxels=lesion_voxels,
        lesion_slices=lesion_slices,
    )


def in_memory(case: str) -> Any:
    """A new HDF5 file in memory, to be filled and given to `store`."""
    return hdf5.in_memory(f"{case}.h5", block_size=GROWTH_BYTES)


def chunk_options(compression: str) -> dict[str, Any]:
    """Of a dataset in chunks: checksums, no times, and a key of COMPRESSION."""
    return {"track_times": False, "fletcher32": True, **COMPRESSION[compression]}


def write_origin(file: Any, case: str, recipe_hash: str, sources: Mapping[str, Source], grid: ScanGrid) -> None:
    """What a shard was made of and how, and the scan's grid."""
    file.attrs["schema_version"] = SCHEMA_VERSION
    file.attrs["case"] = case
    file.attrs["recipe_hash"] = recipe_hash
    file.attrs["sources"] = _json({name: asdict(source) for name, source in sources.items()})
    file.attrs["scan_grid"] = _json(grid.to_json())


def write_intensity(file: Any, brain: BrainOrigin, intensity: Mapping[str, Statistics]) -> None:
    """What the brain was taken from, and its mean and spread in each modality before normalising."""
    file.attrs["brain_source"] = brain.source
    file.attrs["brain_origin"] = _json(brain.model_dump(mode="json"))
    file.attrs["intensity"] = _json({name: asdict(stats) for name, stats in intensity.items()})


def write_counts(file: Any, counts: LesionCounts | None) -> None:
    """What became of the lesions on the way from their file."""
    if counts is not None:
        file.attrs["lesion_counts"] = _json(counts.model_dump(mode="json"))


def store(shards: Path, case: str, file: Any) -> ShardEntry:
    """Write a file in memory to SHARDS/cases/<case>.h5, whole or not at all. Raises StorageError."""
    file.flush()
    content: bytes = file.id.get_file_image()
    path = shard_path(shards, case)
    write_bytes(path, content)
    return ShardEntry(
        case=case,
        file=path.relative_to(shards).as_posix(),
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        brain=_brain(file),
    )


def _brain(file: Any) -> BrainOrigin | None:
    """Where a shard's brain comes from; None in one of an earlier version."""
    stored = file.attrs.get("brain_origin")
    return None if stored is None else BrainOrigin.model_validate_json(stored)


def read_entry(shards: Path, case: str) -> tuple[CaseEntry | PatchEntry, str, dict[str, Source]]:
    """What a shard on disk is, of slices or of patches: its manifest entry, its recipe's hash and its sources.

    Every chunk is read, so that what it says is worth keeping. Raises ShardError where the file is damaged.
    """
    path = shard_path(shards, case)
    try:
        with hdf5.open_hdf5(path) as file:
            for data in file.values():
                for place in data.iter_chunks() if data.chunks else [...]:
                    data[place]
            stored = ShardEntry(
                case=str(file.attrs["case"]),
                file=path.relative_to(shards).as_posix(),
                sha256=sha256_file(path),
                bytes=path.stat().st_size,
                counts=LesionCounts(**json.loads(counts)) if (counts := file.attrs.get("lesion_counts")) else None,
                brain=_brain(file),
            )
            entry = _of_patches(file, stored) if "kind" in file.attrs else _of_slices(file, stored)
            sources = {name: Source(**source) for name, source in json.loads(file.attrs["sources"]).items()}
            return entry, str(file.attrs["recipe_hash"]), sources
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise ShardError(f"{path}: a damaged shard ({error}); delete it and {REMEDY}") from error


def _of_slices(file: Any, stored: ShardEntry) -> CaseEntry:
    slices, height, width, channels = file["image"].shape
    if file["mask"].shape != (slices, height, width) or "scan_mask" not in file:
        raise ValueError("its mask does not fit its image")
    return CaseEntry(
        **stored.model_dump(),
        slices=slices,
        image_shape=(height, width, channels),
        lesion_voxels=int(file.attrs["lesion_voxels"]),
        lesion_slices=int(file.attrs["lesion_slices"]),
    )


def _of_patches(file: Any, stored: ShardEntry) -> PatchEntry:
    """See `patch_writer`, which describes the file."""
    x, y, z, channels = file["image"].shape
    if file["scan_mask"].shape != (x, y, z) or len(file["candidates"]) != len(file["candidate_labels"]):
        raise ValueError("its parts do not fit together")
    size = tuple(int(voxels) for voxels in file.attrs["patch_size"])
    return PatchEntry(
        **stored.model_dump(),
        image_shape=(*size, channels),
        volume_shape=(x, y, z),
        candidates=len(file["candidates"]),
        lesion_voxels=len(file["lesions"]),
    )


def _json(document: Any) -> str:
    return json.dumps(document, sort_keys=True, allow_nan=False)
