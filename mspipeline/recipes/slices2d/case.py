"""One case on its way to slices: normalised on its own grid, resampled a block of slices at a time.

Resampling in blocks keeps memory small, lets several threads work, and overlaps with what the caller does with a block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mspipeline.labels import LESIONS, LabelMap, LabelSet
from mspipeline.preprocess.brain import BrainOrigin, BrainSource
from mspipeline.preprocess.intensity import Statistics
from mspipeline.preprocess.lesion_counts import LesionCounts
from mspipeline.preprocess.spatial import resample, resample_labels, to_slices
from mspipeline.recipes.slices2d.schema import SliceSchema
from mspipeline.volume import FloatArray, ScanGrid

BLOCK_SLICES = 16
"""Slices resampled at a time: 4 MiB of a 256 x 256 channel, small beside a volume, large beside a call's overhead."""


@dataclass(frozen=True)
class SliceBlock:
    """Consecutive stored slices. first: place of the first of them among the case's slices.

    images: (n, H, W, C) float32. mask: (n, H, W) uint8, label numbers, or None where the case has no mask.
    """

    first: int
    images: FloatArray
    mask: LabelMap | None


@dataclass(frozen=True)
class PreparedCase:
    """One case, normalised on its own grid; slices are resampled when they are asked for.

    scans: modality -> (X, Y, Z) float32, normalised. truth: (X, Y, Z) uint8, numbers of `labels`, or None; both on
    `grid`'s canonical axes.
    slice_index: (S,) int32, places of the slices on the resampled volume's slice axis.
    volume_shape: (X, Y, Z) of the resampled volume.
    brain_origin: where the brain comes from. intensity: modality -> statistics of the brain before normalising.
    counts: of the lesions, as drawn, on the scan's grid and in the slices; None where there is no mask, or of labels.
    """

    recipe: SliceSchema
    scans: Mapping[str, FloatArray]
    truth: LabelMap | None
    grid: ScanGrid
    slice_index: npt.NDArray[np.int32]
    brain_origin: BrainOrigin
    intensity: Mapping[str, Statistics]
    labels: LabelSet = LESIONS
    counts: LesionCounts | None = None

    @property
    def brain_source(self) -> BrainSource:
        return self.brain_origin.source

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        return self.recipe.size

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of a slice."""
        return self.recipe.image_shape

    @property
    def images(self) -> FloatArray:
        """(S, H, W, C) float32: every slice, resampled now."""
        images = np.empty((len(self.slice_index), *self.image_shape), np.float32)
        for block in self.blocks():
            images[block.first : block.first + len(block.images)] = block.images
        return images

    @property
    def mask(self) -> LabelMap | None:
        """(S, H, W) uint8: every slice of the mask, resampled now; None where there is none."""
        if self.truth is None:
            return None
        parts = [block.mask for block in self.blocks() if block.mask is not None]
        return np.concatenate(parts)

    def blocks(self, *, threads: int = 1) -> Iterator[SliceBlock]:
        """Every slice, a block at a time, in order; the same values whatever the number of threads.

        Threads resample the next blocks while the caller uses the last; at most threads + 2 blocks are in memory.
        """
        starts = list(range(0, len(self.slice_index), BLOCK_SLICES))
        with ThreadPoolExecutor(threads, thread_name_prefix="resample") as pool:
            try:
                yield from _in_order(pool, self._block, starts, ahead=threads)
            finally:
                pool.shutdown(cancel_futures=True)

    def _block(self, first: int) -> SliceBlock:
        places = self.slice_index[first : first + BLOCK_SLICES]
        rows = (int(places[0]), int(places[-1]) + 1)
        wanted = places - places[0]
        height, width, channels = self.image_shape
        size = (self.recipe.size[self.recipe.axis], height, width)
        images = np.empty((rows[1] - rows[0], height, width, channels), np.float32)
        for channel, modality in enumerate(self.recipe.modalities):
            scan = to_slices(self.scans[modality], self.recipe.axis)  # (X,Y,Z) -> (S,H,W)
            resample(scan, size, order=self.recipe.image_order, rows=rows, out=images[..., channel])
        mask = None
        if self.truth is not None:
            truth = to_slices(self.truth, self.recipe.axis)  # (X,Y,Z) -> (S,H,W)
            numbers = range(1, len(self.labels.names))
            mask = resample_labels(truth, size, numbers, order=self.recipe.mask_order, rows=rows)[wanted]
        return SliceBlock(first, images[wanted], mask)


def _in_order(
    pool: Executor, work: Callable[[int], SliceBlock], items: Sequence[int], *, ahead: int
) -> Iterator[SliceBlock]:
    """`work(item)` of each item, in order, with `ahead` of them under way."""
    waiting: deque[Future[SliceBlock]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
