"""Batches of patches from more volumes than memory holds: in random order within blocks, loaded one after the other.

An epoch visits its units, a volume or a run of stored patches each, in random order, and cuts that order into blocks of
at most half the memory given. Patches are shuffled within a block; while one is served, a thread loads the next. So
every unit is read once an epoch, and where all of them fit, once in all: the least recently used make room for others.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.errors import ShardError
from mspipeline.patches.sampling import PatchSelection
from mspipeline.recipes.patches3d.shard import PatchEntry
from mspipeline.shards.epochs import EpochReader
from mspipeline.volume import FloatArray

Augment = Callable[[FloatArray, np.random.Generator], FloatArray]
"""A batch's images (N, x, y, z, C) and a generator of its own -> its images as they are learned from."""
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class PatchBatch:
    """N patches. Every batch has arrays of its own, so it may be kept or changed.

    images: (N, x, y, z, C) float32. masks: (N, 1) float32, 1 where the centre voxel is lesion, else 0.
    cases: (N,) int32, places in the reader's `case_ids`. centres: (N, 3) int32, on the scan's canonical axes.
    """

    images: FloatArray
    masks: FloatArray
    cases: npt.NDArray[np.int32]
    centres: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Unit:
    """What is loaded in one piece. case: place in `case_ids`. first, count: patches of the case. size_bytes: loaded."""

    case: int
    first: int
    count: int
    size_bytes: int


class BlockReader(EpochReader[PatchBatch]):
    """Patches of `units`, epoch by epoch.

    memory_bytes: of loaded units, at most, or of two units where these are larger. The order of an epoch depends on the
    seed, the epoch and this number, which is never the machine's. augment: of the images, seeded by seed, epoch and
    batch. Raises ShardError where the entries' patches differ in shape.
    """

    what = "patches"

    def __init__(
        self,
        shards: Path,
        entries: Sequence[PatchEntry],
        units: Sequence[Unit],
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        augment: Augment | None,
        prefetch_batches: int,
        memory_bytes: int,
    ) -> None:
        super().__init__(
            shards, entries, batch_size=batch_size, seed=seed, shuffle=shuffle, prefetch_batches=prefetch_batches
        )
        self._entries = tuple(entries)
        self._units = tuple(unit for unit in units if unit.count)
        self._patches = sum(unit.count for unit in self._units)
        self._augment = augment
        self._memory_bytes = memory_bytes
        self._kept = _UnitCache(memory_bytes)

    @property
    def images(self) -> int:
        """Patches in all."""
        return self._patches

    @property
    @abstractmethod
    def _image_shape(self) -> tuple[int, ...]:
        """(x, y, z, C) of a patch."""

    @abstractmethod
    def _load(self, unit: Unit) -> Any:
        """Read what the unit's patches are cut from. Raises ShardError."""

    @abstractmethod
    def _cut(self, unit: Unit, loaded: Any, rows: Indices, images: FloatArray) -> PatchSelection:
        """Fill images with the unit's patches at `rows`, counted from the unit's first; what they are cut around."""

    def _batches(self, number: int, first_step: int) -> Generator[PatchBatch, None, None]:
        blocks = self._blocks(number)
        skip, step = first_step * self._batch_size, first_step
        left = max(0, self.images - skip)
        batch = _PartialBatch(min(self._batch_size, left), self._image_shape)
        with ThreadPoolExecutor(1, thread_name_prefix="patch-loader") as loader:
            try:
                asked: dict[int, Future[Any]] = {}
                for place, block in enumerate(blocks):
                    units, rows = self._order(number, place, block)
                    units, rows, skip = units[skip:], rows[skip:], max(0, skip - len(units))
                    if not len(units):
                        continue
                    for unit in (*block, *(blocks[place + 1] if place + 1 < len(blocks) else ())):
                        if unit not in asked:
                            asked[unit] = loader.submit(self._kept.get, unit, self._units[unit], self._load)
                    loaded = {unit: self._wait(asked.pop(unit)) for unit in block}
                    while len(units):
                        count = min(batch.room, len(units))
                        self._fill(batch, units[:count], rows[:count], loaded)
                        units, rows = units[count:], rows[count:]
                        if not batch.room:
                            yield self._finished(batch, number, step)
                            left, step = left - batch.filled, step + 1
                            batch = _PartialBatch(min(self._batch_size, left), self._image_shape)
            finally:
                loader.shutdown(cancel_futures=True)

    def _blocks(self, number: int) -> list[list[int]]:
        """The places of the units, in the order of the epoch, dealt to blocks."""
        order = np.arange(len(self._units))
        if self._shuffle:
            self._generator(number, 0, 0).shuffle(order)
        blocks: list[list[int]] = []
        room = 0
        for unit in order.tolist():
            room -= self._units[unit].size_bytes
            if room < 0 or not blocks:
                blocks.append([])
                room = self._memory_bytes // 2 - self._units[unit].size_bytes
            blocks[-1].append(unit)
        return blocks

    def _order(self, number: int, place: int, block: Sequence[int]) -> tuple[Indices, Indices]:
        """The patches of a block in the order of the epoch: the unit of each, and its row in the unit."""
        counts = [self._units[unit].count for unit in block]
        order = np.arange(sum(counts))
        if self._shuffle:
            self._generator(number, 1, place).shuffle(order)
        return np.repeat(block, counts)[order], np.concatenate([np.arange(count) for count in counts])[order]

    def _fill(self, batch: _PartialBatch, units: Indices, rows: Indices, loaded: dict[int, Any]) -> None:
        """Cut patches, those of a unit at once: they stand side by side in the batch."""
        order = np.argsort(units, kind="stable")
        for unit, places in zip(*np.unique(units, return_counts=True), strict=True):
            own, order = order[:places], order[places:]
            images = batch.images[batch.filled : batch.filled + places]
            found = self._cut(self._units[unit], loaded[int(unit)], rows[own], images)
            batch.add(found, self._units[unit].case)

    def _finished(self, batch: _PartialBatch, number: int, step: int) -> PatchBatch:
        images = batch.images
        if self._augment is not None:
            images = self._augment(images, self._generator(number, 2, step))
        return PatchBatch(images, batch.masks, batch.cases, batch.centres)

    def _wait(self, future: Future[Any]) -> Any:
        if self._closed:  # the consumer has left: it need not wait for the rest of a block
            raise ShardError(f"{self._shards}: the reader was closed in mid-epoch; open a new one")
        return future.result()

    def _generator(self, number: int, purpose: int, place: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, number, purpose, place])))


class _PartialBatch:
    """A batch in the making."""

    def __init__(self, size: int, image_shape: tuple[int, ...]) -> None:
        self.images = np.empty((size, *image_shape), np.float32)
        self.masks = np.empty((size, 1), np.float32)
        self.cases = np.empty(size, np.int32)
        self.centres = np.empty((size, 3), np.int32)
        self.filled = 0

    @property
    def room(self) -> int:
        return len(self.cases) - self.filled

    def add(self, found: PatchSelection, case: int) -> None:
        place = slice(self.filled, self.filled + len(found))
        self.masks[place, 0], self.cases[place], self.centres[place] = found.labels, case, found.centres
        self.filled += len(found)


class _UnitCache:
    """Loaded units, the least recently used of which make room. Several threads may ask."""

    def __init__(self, memory_bytes: int) -> None:
        self._room = memory_bytes
        self._units: OrderedDict[int, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: int, unit: Unit, load: Callable[[Unit], Any]) -> Any:
        with self._lock:
            if key in self._units:
                self._units.move_to_end(key)
                return self._units[key][0]
        loaded = load(unit)
        with self._lock:
            if key not in self._units:
                self._units[key] = loaded, unit.size_bytes
                self._room -= unit.size_bytes
            while self._room < 0:
                self._room += self._units.popitem(last=False)[1][1]
        return loaded
