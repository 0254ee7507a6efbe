"""Streams of shuffled batches from the shards of a subset, and whole cases for inference.

The order of an epoch depends on the seed and the epoch's number alone, whatever backend asks. One thread reads ahead:
HDF5 holds one global lock, a second thread would wait for it. At any time at most `prefetch_batches` + 2 batches and
16 open files are in memory, however many cases there are.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.errors import ShardError
from mspipeline.hdf5 import open_hdf5, refusal
from mspipeline.shards.epochs import EpochReader
from mspipeline.shards.manifest import REMEDY, CaseEntry, ShardEntry
from mspipeline.shards.writer import SCHEMA_VERSION
from mspipeline.volume import ScanGrid

OPEN_FILES = 16
"""Each costs about 0.7 MiB of HDF5's own memory; opening one again about 0.8 ms (HDF5 1.14, 2-core machine)."""
UNREADABLE = (OSError, KeyError, ValueError, RuntimeError, TypeError)
"""What h5py raises on files that are missing, damaged or of another layout."""

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Batch:
    """N slices. Every batch has arrays of its own, so it may be kept or changed.

    images: (N, H, W, C) float32. masks: (N, H, W, 1) float32, 0 or 1.
    cases: (N,) int32, places in the reader's `case_ids`. slices: (N,) int32, on the resampled volume's slice axis.
    """

    images: npt.NDArray[np.float32]
    masks: npt.NDArray[np.float32]
    cases: IntArray
    slices: IntArray


@dataclass(frozen=True)
class CaseShard:
    """One whole case.

    images: (S, H, W, C) float32. slice_index: (S,) int32, the place of each on the slice axis of a resampled volume of
    `volume_shape` (X, Y, Z). scan_mask: the truth, bool, on the canonical axes of `grid`, the scan's own.
    """

    case: str
    images: npt.NDArray[np.float32]
    slice_index: IntArray
    volume_shape: tuple[int, int, int]
    scan_mask: npt.NDArray[np.bool_]
    grid: ScanGrid


def read_case(shards: Path, entry: CaseEntry) -> CaseShard:
    """One case whole. Raises ShardError where its shard is missing, damaged or of another case."""
    path = shards / entry.file
    try:
        with _open(path, entry) as file:
            x, y, z = (int(size) for size in file.attrs["volume_shape"])
            return CaseShard(
                case=entry.case,
                images=file["image"][...],
                slice_index=file["slice_index"][...],
                volume_shape=(x, y, z),
                scan_mask=file["scan_mask"][...].astype(bool),
                grid=ScanGrid.from_json(json.loads(file.attrs["scan_grid"])),
            )
    except UNREADABLE as error:
        raise damaged(path, entry, error) from error


class ShardReader(EpochReader[Batch]):
    """Batches of slices from some cases, epoch by epoch.

    shards: folder of the manifest. entries: of the subset to read; none gives epochs without steps.
    shuffle: False keeps the order of entries and slices. prefetch_batches: read ahead of the consumer, at least 1.
    Raises ShardError where the cases' image shapes differ.
    """

    def __init__(
        self,
        shards: Path,
        entries: Sequence[CaseEntry],
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        prefetch_batches: int = 4,
    ) -> None:
        super().__init__(
            shards, entries, batch_size=batch_size, seed=seed, shuffle=shuffle, prefetch_batches=prefetch_batches
        )
        self._entries = tuple(entries)
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

    def _batches(self, number: int, first_step: int) -> Generator[Batch, None, None]:
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
                yield Batch(images, masks[..., None].astype(np.float32), cases, slices)
        finally:
            opened.close()


class _OpenShards:
    """The least recently used of OPEN_FILES open shards makes room for the next. Belongs to one thread."""

    def __init__(self, shards: Path) -> None:
        self._shards = shards
        self._files: OrderedDict[str, tuple[Any, Any, Any, IntArray]] = OrderedDict()

    def read(self, entry: CaseEntry, row: int, image: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8]) -> np.int32:
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

    def _open(self, entry: CaseEntry) -> tuple[Any, Any, Any, IntArray]:
        if entry.file in self._files:
            self._files.move_to_end(entry.file)
            return self._files[entry.file]
        if len(self._files) >= OPEN_FILES:
            self._files.popitem(last=False)[1][0].close()
        file = _open(self._shards / entry.file, entry)
        try:
            opened = (file, file["image"], file["mask"], file["slice_index"][...])
        except BaseException:
            file.close()
            raise
        self._files[entry.file] = opened
        return opened


def _open(path: Path, entry: CaseEntry) -> Any:
    """The shard of a case, open. No chunk is read twice, so none is cached."""
    file = open_hdf5(path, rdcc_nbytes=0)
    try:
        found = (int(file.attrs["schema_version"]), str(file.attrs["case"]), tuple(file["image"].shape))
        expected = (SCHEMA_VERSION, entry.case, (entry.slices, *entry.image_shape))
        if found != expected:
            raise ValueError(f"holds {found}, the manifest says {expected}")
    except BaseException:
        file.close()
        raise
    return file


def damaged(path: Path, entry: ShardEntry, error: BaseException) -> ShardError:
    """The line for a shard that h5py cannot read."""
    if reason := refusal(error):
        return ShardError(
            f"{path}: shard of case {entry.case} cannot be read ({reason}); it may be whole: see whether its disk "
            "and its permissions are in order"
        )
    said = " ".join(str(error).split())
    return ShardError(f"{path}: shard of case {entry.case} is missing or damaged ({said}); delete it and {REMEDY}")
