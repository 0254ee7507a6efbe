"""Streams of shuffled batches of slices from the shards of a subset.

The order of an epoch depends on the seed and the epoch's number alone, whatever backend asks. One thread reads ahead:
HDF5 holds one global lock, a second thread would wait for it. At any time at most `prefetch_batches` + 2 batches and
16 open files are in memory, however many cases there are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.recipes.slices2d.shard import SliceEntry, open_slices
from mspipeline.shards.epochs import EpochReader
from mspipeline.shards.reader import UNREADABLE, damaged
from mspipeline.transforms.chain import Chain

OPEN_FILES = 16
"""Each costs about 0.7 MiB of HDF5's own memory; opening one again about 0.8 ms (HDF5 1.14, 2-core machine)."""

UNCHANGED = Chain()
IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class SliceBatch:
    """N slices. Every batch has arrays of its own, so it may be kept or changed.

    images: (N, H, W, C) float32. masks: (N, H, W, 1) float32, 0 or 1.
    cases: (N,) int32, places in the reader's `case_ids`. slices: (N,) int32, on the resampled volume's slice axis.
    """

    images: npt.NDArray[np.float32]
    masks: npt.NDArray[np.float32]
    cases: IntArray
    slices: IntArray


class SliceReader(EpochReader[SliceBatch]):
    """Batches of slices from some cases, epoch by epoch.

    shards: folder of the manifest. entries: of the subset to read; none gives epochs without steps.
    shuffle: False keeps the order of entries and slices. prefetch_batches: read ahead of the consumer, at least 1.
    transforms: of each slice, by the thread that reads ahead; they draw by seed, epoch, case and slice.
    Raises ShardError where the cases' image shapes differ.
    """

    def __init__(
        self,
        shards: Path,
        entries: Sequence[SliceEntry],
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        transforms: Chain = UNCHANGED,
        prefetch_batches: int = 4,
    ) -> None:
        super().__init__(
            shards, entries, batch_size=batch_size, seed=seed, shuffle=shuffle, prefetch_batches=prefetch_batches
        )
        self._entries = tuple(entries)
        self._transforms = transforms
        self._starts = np.cumsum([0, *(entry.slices for entry in entries)])

    @property
    def images(self) -> int:
        """Slices in all."""
        return int(self._starts[-1])

    def _order(self, number: int) -> IntArray:
        """(images,) places in the sequence of all slices of all cases."""
        order = np.arange(self.images, dtype=np.int32)
        if self._shuffle:
            np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, number]))).shuffle(order)
        return order

    def _batches(self, number: int, first_step: int) -> Generator[SliceBatch, None, None]:
        order = self._order(number)
        opened = _OpenShards(self._shards)
        try:
            for start in range(first_step * self._batch_size, self.images, self._batch_size):
                places = order[start : start + self._batch_size]
                cases = (np.searchsorted(self._starts, places, side="right") - 1).astype(np.int32)
                rows = places - self._starts[cases]
                height, width, channels = self._entries[0].image_shape
                images = np.empty((places.size, height, width, channels), np.float32)
                masks = np.empty((places.size, height, width), np.uint8)
                slices = np.empty(places.size, np.int32)
                for n, (case, row) in enumerate(zip(cases, rows, strict=True)):
                    slices[n] = opened.read(self._entries[case], int(row), images[n], masks[n])
                    if self._transforms.links:
                        images[n], masks[n] = self._transforms(
                            images[n],
                            masks[n],
                            seed=self._seed,
                            epoch=number,
                            case=self._entries[case].case,
                            place=int(slices[n]),
                        )
                yield SliceBatch(images, masks[..., None].astype(np.float32), cases, slices)
        finally:
            opened.close()


class _OpenShards:
    """The least recently used of OPEN_FILES open shards makes room for the next. Belongs to one thread."""

    def __init__(self, shards: Path) -> None:
        self._shards = shards
        self._files: OrderedDict[str, tuple[Any, Any, Any, IntArray]] = OrderedDict()

    def read(
        self, entry: SliceEntry, row: int, image: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8]
    ) -> np.int32:
        """Fill image (H, W, C) and mask (H, W) with a row of a shard; return its slice_index. Raises ShardError."""
        try:
            _, images, masks, slice_index = self._open(entry)
            images.read_direct(image, np.s_[row])
            masks.read_direct(mask, np.s_[row])
            return np.int32(slice_index[row])
        except UNREADABLE as error:
            raise damaged(self._shards / entry.file, entry, error) from error

    def close(self) -> None:
        """Close every file."""
        for file, *_ in self._files.values():
            file.close()
        self._files.clear()

    def _open(self, entry: SliceEntry) -> tuple[Any, Any, Any, IntArray]:
        if entry.file in self._files:
            self._files.move_to_end(entry.file)
            return self._files[entry.file]
        if len(self._files) >= OPEN_FILES:
            self._files.popitem(last=False)[1][0].close()
        file = open_slices(self._shards / entry.file, entry)
        try:
            opened = (file, file["image"], file["mask"], file["slice_index"][...])
        except BaseException:
            file.close()
            raise
        self._files[entry.file] = opened
        return opened
