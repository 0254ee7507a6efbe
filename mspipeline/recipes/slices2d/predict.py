"""Slices through the network, back into a volume, back onto the scan's grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mspipeline.backends.base import Backend
from mspipeline.channels import Channels, channels_of, label_map
from mspipeline.datasets.case import Case
from mspipeline.labels import LabelMap
from mspipeline.models.stored import graph_of_run
from mspipeline.preprocess.brain import BrainOrigin
from mspipeline.preprocess.spatial import back_to_scan, from_slices
from mspipeline.recipes.prediction import PredictionSettings, Segmentation, Trained
from mspipeline.recipes.scans import read_arguments
from mspipeline.recipes.slices2d.prepare import apply_files
from mspipeline.recipes.slices2d.schema import SliceSchema
from mspipeline.recipes.slices2d.shard import SliceEntry, read_slices
from mspipeline.recipes.stored_network import stored_network
from mspipeline.runs import RunPaths, RunRecord
from mspipeline.shards.manifest import ShardEntry, entries_as
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


def predict_slices(
    backend: Backend, channels: Channels, images: FloatArray, *, batch_size: int
) -> dict[str, FloatArray]:
    """The probability of each label that decides at every pixel of slices, a batch at a time.

    channels: of the network in the backend. images: (S, H, W, C), S may be 0. Returns (S, H, W) each, in [0, 1].
    """
    probabilities = {name: np.empty(images.shape[:3], np.float32) for name in channels.decisive}
    for first in range(0, len(images), batch_size):
        batch = images[first : first + batch_size]
        for name, values in channels.probabilities(backend.predict(batch)).items():
            probabilities[name][first : first + batch_size] = values
    return probabilities


def predict_on_scan(
    backend: Backend, channels: Channels, case: SlicedCase, *, axis: int, batch_size: int
) -> dict[str, FloatArray]:
    """The probability of each label that decides at every voxel of a case's scan.

    channels: of the network in the backend. axis: of the resampled volume, along which the slices were cut. Places
    without a slice (no brain there) have probability 0. Returns (X, Y, Z) each, in [0, 1], on the scan's canonical
    grid, interpolated linearly.
    """
    probabilities = predict_slices(backend, channels, case.images, batch_size=batch_size)
    for name, values in probabilities.items():
        volume = from_slices(values, case.slice_index, case.volume_shape, axis)
        probabilities[name] = back_to_scan(volume, case.volume_shape, case.grid)
    return probabilities


@dataclass(frozen=True)
class TrainedSlices(Trained):
    """A network on slices. channels: of its output. batch_size: slices of a batch."""

    record: RunRecord
    recipe: SliceSchema
    backend: Backend
    channels: Channels
    batch_size: int

    @property
    def device(self) -> str:
        return self.backend.device

    @property
    def rule(self) -> str:
        threshold = f"{self.record.threshold:g}"
        if len(self.labels.names) == 2:
            return f"a voxel is {self.labels.foreground[0]} where its probability is at least {threshold}"
        if self.channels.decisive == self.labels.names:
            return f"a voxel has the most probable label of {', '.join(self.labels.names)}"
        return (
            f"a voxel has the most probable label of {', '.join(self.labels.foreground)} whose probability is at least "
            f"{threshold}, and is background where none is"
        )

    def shard(self, shards: Path, entry: ShardEntry) -> tuple[LabelMap, Segmentation]:
        (own,) = entries_as(SliceEntry, [entry])
        case = read_slices(shards, own)
        return case.scan_mask, self._segmentation(case)

    def case(self, case: Case) -> tuple[Segmentation, BrainOrigin]:
        prepared = apply_files(self.recipe, **read_arguments(self.recipe, case))
        return self._segmentation(prepared), prepared.brain_origin

    def _segmentation(self, case: SlicedCase) -> Segmentation:
        probabilities = predict_on_scan(
            self.backend, self.channels, case, axis=self.recipe.axis, batch_size=self.batch_size
        )
        labels = label_map(self.labels, probabilities, threshold=self.record.threshold)
        foreground = {name: probabilities[name] for name in self.labels.foreground}
        return Segmentation(labels, foreground, case.grid)


def load_slices_run(
    paths: RunPaths, record: RunRecord, recipe: SliceSchema, how: PredictionSettings, batch_size: int
) -> TrainedSlices:
    """The network of a run folder. batch_size: where `how` does not say. Raises as `Recipe.load`."""
    graph = graph_of_run(paths.root, record, recipe.image_shape)
    channels = channels_of(graph, recipe.image_shape[:-1], record.label_set)
    file = paths.best if how.checkpoint == "best" else paths.last
    backend = stored_network(graph, record, file, how.execution)
    return TrainedSlices(record, recipe, backend, channels, how.batch_size or batch_size)
