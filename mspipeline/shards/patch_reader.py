"""Patches for training, cut at batch time from the volumes of `patches3d` shards.

One thread reads ahead and cuts; a second loads volumes. See `blocks` for the order of an epoch and what is in memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mspipeline.hdf5 import open_hdf5
from mspipeline.patches.gather import gather
from mspipeline.patches.sampling import CaseVoxels, PatchSelection
from mspipeline.shards.blocks import Augment, BlockReader, Indices, Unit
from mspipeline.shards.manifest import PatchEntry
from mspipeline.shards.reader import UNREADABLE, damaged
from mspipeline.shards.writer import SCHEMA_VERSION
from mspipeline.volume import BoolArray, FloatArray, ScanGrid

MEMORY_BYTES = 4 << 30
"""Of volumes: 47 of 182 x 218 x 182 voxels and 3 modalities; patches of half as many are shuffled together."""


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
        with _open(path, entry) as file:
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
        with _open(path, entry) as file:
            return _voxels(file)
    except UNREADABLE as error:
        raise damaged(path, entry, error) from error


class PatchReader(BlockReader):
    """Patches around the selected voxels of some cases, epoch by epoch.

    entries: the cases; those that `selection` lacks or has no patch of are left out. patch_size: voxel p of a patch is
    c - size // 2 + p of the volume; beyond it there is 0. augment: None, or one of `patches.augment`. threads: that cut
    a batch. memory_bytes: see `blocks`.
    Raises ShardError where the cases' channels differ.
    """

    def __init__(
        self,
        shards: Path,
        entries: Sequence[PatchEntry],
        *,
        patch_size: tuple[int, int, int],
        selection: Mapping[str, PatchSelection],
        batch_size: int,
        seed: int,
        shuffle: bool,
        augment: Augment | None = None,
        threads: int = 1,
        prefetch_batches: int = 4,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        none = PatchSelection(np.empty((0, 3), np.int32), np.empty(0, np.uint8))
        self._selection = [selection.get(entry.case, none) for entry in entries]
        units = [Unit(case, 0, len(self._selection[case]), entry.volume_bytes) for case, entry in enumerate(entries)]
        super().__init__(
            shards,
            entries,
            units,
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            augment=augment,
            prefetch_batches=prefetch_batches,
            memory_bytes=memory_bytes,
        )
        self._size = patch_size
        self._threads = threads

    @property
    def _image_shape(self) -> tuple[int, ...]:
        return (*self._size, self._entries[0].image_shape[3] if self._entries else 0)

    def _load(self, unit: Unit) -> FloatArray:
        entry = self._entries[unit.case]
        path = self._shards / entry.file
        try:
            with _open(path, entry) as file:
                volume: FloatArray = file["image"][...]
                return volume
        except UNREADABLE as error:
            raise damaged(path, entry, error) from error

    def _cut(self, unit: Unit, loaded: FloatArray, rows: Indices, images: FloatArray) -> PatchSelection:
        chosen = self._selection[unit.case].take(rows)
        gather(loaded, chosen.centres, self._size, out=images, threads=self._threads)
        return chosen


def _voxels(file: Any) -> CaseVoxels:
    return CaseVoxels(file["candidates"][...], file["candidate_labels"][...], file["lesions"][...])


def _open(path: Path, entry: PatchEntry) -> Any:
    """The shard of a case, open. No chunk is read twice, so none is cached."""
    file = open_hdf5(path, rdcc_nbytes=0)
    try:
        found = (int(file.attrs["schema_version"]), str(file.attrs["case"]), tuple(file["image"].shape))
        expected = (SCHEMA_VERSION, entry.case, (*entry.volume_shape, entry.image_shape[3]))
        if found != expected:
            raise ValueError(f"holds {found}, the manifest says {expected}")
    except BaseException:
        file.close()
        raise
    return file
