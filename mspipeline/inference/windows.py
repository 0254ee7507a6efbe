"""Slices through the network, back into a volume, back onto the scan's grid."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from mspipeline.backends.base import Backend
from mspipeline.labels import LESION, Channels
from mspipeline.preprocess.spatial import back_to_scan, from_slices
from mspipeline.volume import FloatArray, ScanGrid


class SlicedCase(Protocol):
    """A case as its shard holds it, or as it was just prepared.

    images: (S, H, W, C). slice_index: (S,) places of the slices in the resampled volume of `volume_shape`, (X, Y, Z).
    grid: of the scan.
    """

    @property
    def images(self) -> FloatArray: ...
    @property
    def slice_index(self) -> npt.NDArray[np.int32]: ...
    @property
    def volume_shape(self) -> tuple[int, int, int]: ...
    @property
    def grid(self) -> ScanGrid: ...


def predict_slices(backend: Backend, channels: Channels, images: FloatArray, *, batch_size: int) -> FloatArray:
    """The probability of lesion at every pixel of slices, a batch at a time.

    channels: of the network in the backend. images: (S, H, W, C), S may be 0. Returns (S, H, W) in [0, 1].
    """
    probability = np.empty(images.shape[:3], np.float32)
    for first in range(0, len(images), batch_size):
        batch = images[first : first + batch_size]
        probability[first : first + batch_size] = channels.probability(LESION, backend.predict(batch))
    return probability


def predict_on_scan(
    backend: Backend, channels: Channels, case: SlicedCase, *, axis: int, batch_size: int
) -> FloatArray:
    """The lesion probability of a case at every voxel of its scan.

    channels: of the network in the backend. axis: of the resampled volume, along which the slices were cut. Places
    without a slice (no brain there) have probability 0. Returns (X, Y, Z) in [0, 1] on the scan's canonical grid,
    interpolated linearly.
    """
    probability = predict_slices(backend, channels, case.images, batch_size=batch_size)
    volume = from_slices(probability, case.slice_index, case.volume_shape, axis)
    return back_to_scan(volume, case.volume_shape, case.grid)
