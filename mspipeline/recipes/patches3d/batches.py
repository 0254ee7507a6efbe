"""Patches for training, cut at batch time from the volumes of `patches3d` shards.

One thread reads ahead and cuts; a second loads volumes. See `blocks` for the order of an epoch and what is in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mspipeline.patches.gather import gather
from mspipeline.patches.sampling import PatchSelection
from mspipeline.recipes.patches3d.blocks import Augment, BlockReader, Indices, Unit
from mspipeline.recipes.patches3d.shard import PatchEntry, open_volume
from mspipeline.shards.reader import UNREADABLE, damaged
from mspipeline.volume import FloatArray

MEMORY_BYTES = 4 << 30
"""Of volumes: 47 of 182 x 218 x 182 voxels and 3 modalities; patches of half as many are shuffled together."""


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
            with open_volume(path, entry) as file:
                volume: FloatArray = file["image"][...]
                return volume
        except UNREADABLE as error:
            raise damaged(path, entry, error) from error

    def _cut(self, unit: Unit, loaded: FloatArray, rows: Indices, images: FloatArray) -> PatchSelection:
        chosen = self._selection[unit.case].take(rows)
        gather(loaded, chosen.centres, self._size, out=images, threads=self._threads)
        return chosen
