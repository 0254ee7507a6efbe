"""A recipe of another package: pictures in NumPy files, without a brain, a modality or a NIfTI header."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, PositiveInt

from mspipeline.backends.base import Backend
from mspipeline.channels import Channels, channels_of, label_map
from mspipeline.config import Strict, TrainingSettings
from mspipeline.datasets.case import Case
from mspipeline.datasets.layouts import Found, Masks
from mspipeline.labels import LESION, LabelMap
from mspipeline.models.stored import graph_of_run
from mspipeline.preprocess.brain import BrainOrigin
from mspipeline.recipes.base import Inspection, Recipe, Schema
from mspipeline.recipes.prediction import PredictionSettings, Segmentation, Trained
from mspipeline.recipes.stored_network import stored_network
from mspipeline.recipes.training import TrainingRun
from mspipeline.runs import RunPaths, RunRecord
from mspipeline.shards.epochs import EpochReader
from mspipeline.shards.manifest import Manifest, ShardEntry, entries_as
from mspipeline.shards.reader import open_shard
from mspipeline.shards.writer import Source, StoredShard, chunk_options, describe, in_memory, store, write_origin
from mspipeline.volume import FloatArray, ScanGrid


class PictureSchema(Schema):
    kind: Literal["pictures2d"] = "pictures2d"
    size: PositiveInt = 16
    divide_by: float = 255.0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.size, self.size, 1)


class PictureTraining(Strict):
    """mirror: pictures are learned from left to right and from right to left, epoch by epoch."""

    mirror: bool = False


class PictureEntry(ShardEntry):
    model_config = ConfigDict(extra="forbid")
    image_shape: tuple[int, int, int]
    lesion_voxels: int


@dataclass(frozen=True)
class PictureBatch:
    images: FloatArray
    masks: FloatArray
    cases: np.ndarray


class PictureReader(EpochReader[PictureBatch]):
    """A picture a case, in the order of the cases."""

    what = "pictures"

    def __init__(self, shards: Path, entries: Sequence[PictureEntry], batch_size: int, *, mirror: bool = False) -> None:
        super().__init__(shards, entries, batch_size=batch_size, seed=0, shuffle=False, prefetch_batches=1)
        self._entries, self._mirror = entries, mirror

    @property
    def images(self) -> int:
        return len(self._entries)

    def _batches(self, number: int, first_step: int) -> Generator[PictureBatch, None, None]:
        for first in range(first_step * self._batch_size, self.images, self._batch_size):
            places = range(first, min(first + self._batch_size, self.images))
            images, masks = zip(*(read_picture(self._shards, self._entries[place]) for place in places), strict=True)
            turn = -1 if self._mirror and number % 2 else 1
            yield PictureBatch(
                np.stack(images)[:, ::turn],
                np.stack(masks)[:, ::turn, :, None].astype(np.float32),
                np.array(places, np.int32),
            )


def read_picture(shards: Path, entry: PictureEntry) -> tuple[FloatArray, np.ndarray]:
    with open_shard(shards / entry.file, entry, entry.image_shape) as file:
        return file["image"][...], file["mask"][...]


@dataclass(frozen=True)
class TrainedPictures(Trained):
    record: RunRecord
    settings: PictureSchema
    backend: Backend
    channels: Channels

    @property
    def device(self) -> str:
        return self.backend.device

    @property
    def rule(self) -> str:
        return f"a pixel is lesion from {self.record.threshold:g} on"

    def shard(self, shards: Path, entry: ShardEntry) -> tuple[LabelMap, Segmentation]:
        (own,) = entries_as(PictureEntry, [entry])
        image, mask = read_picture(shards, own)
        return mask[..., None], self._lesions(image)

    def case(self, case: Case) -> tuple[Segmentation, BrainOrigin | None]:
        return self._lesions(picture_of(case, self.settings)), None

    def _lesions(self, image: FloatArray) -> Segmentation:
        probability = self.channels.probability(LESION, self.backend.predict(image[None]))[0][..., None]
        labels = label_map(self.labels, {LESION: probability}, threshold=self.record.threshold)
        return Segmentation(labels, {LESION: probability}, grid_of(probability.shape))


class Pictures2d(Recipe[PictureSchema]):
    kind: ClassVar[str] = "pictures2d"
    schema: ClassVar[type[PictureSchema]] = PictureSchema
    training_schema: ClassVar[type[PictureTraining]] = PictureTraining
    example_network: ClassVar[str] = "unet2d"
    batch_size: ClassVar[int] = 2

    @property
    def channels(self) -> tuple[str, ...]:
        return ("gray",)

    def find(self, dataset: Path, *, masks: Masks, prefer: Sequence[str] = (), change_masks: bool = False) -> Found:
        folders = sorted(path.parent for path in dataset.glob("*/image.npy"))
        cases = tuple(
            Case(folder.name, folder.name, None, {"gray": folder / "image.npy"}, folder / "mask.npy", None)
            for folder in folders
        )
        return Found(dataset.name, "bids", cases, ())

    def files(self, case: Case) -> dict[str, Path]:
        return {**self.inputs(case), "lesions": case.scans["gray"].with_name("mask.npy")}

    def inputs(self, case: Case) -> dict[str, Path]:
        return dict(case.scans)

    def inspect(self, case: Case) -> Inspection:
        return Inspection(cost=1.0)

    def write_shard(self, shards: Path, case: Case, sources: Mapping[str, Source], *, threads: int) -> PictureEntry:
        image, mask = picture_of(case, self.settings), np.load(self.files(case)["lesions"]).astype(np.uint8)
        with in_memory(case.id) as file:
            for name, data in (("image", image), ("mask", mask)):
                file.create_dataset(name, data=data, chunks=data.shape, **chunk_options("none"))
            write_origin(file, case.id, self.hash, sources, grid_of((*mask.shape, 1)))
            stored = store(shards, case.id, file)
        return PictureEntry(**stored.model_dump(), image_shape=image.shape, lesion_voxels=int(mask.sum()))

    def read_entry(self, stored: StoredShard) -> PictureEntry:
        def own(file: Any) -> dict[str, Any]:
            return {"image_shape": file["image"].shape, "lesion_voxels": int(file["mask"][...].sum())}

        return PictureEntry.model_validate(describe(stored, own))

    def contents(self, manifest: Manifest) -> str:
        return f"{len(manifest.cases)} pictures"

    def train(self, run: TrainingRun) -> bool:
        own = PictureTraining(**run.job.training.recipe)
        train, validation = (entries_as(PictureEntry, run.manifest.subset(name)) for name in ("train", "validation"))
        readers = (
            PictureReader(run.job.shards, train, self.batch_size, mirror=own.mirror),
            PictureReader(run.job.shards, validation, self.batch_size),
        )
        with readers[0], readers[1]:
            run.begin(readers[0], readers[1], None).run()
        return True

    def has_dice(self, manifest: Manifest) -> bool:
        return any(entry.lesion_voxels for entry in entries_as(PictureEntry, manifest.subset("validation")))

    def record_fields(self, settings: TrainingSettings) -> dict[str, Any]:
        return {"prediction": {"mirrored": PictureTraining(**settings.recipe).mirror}}

    def load(self, paths: RunPaths, record: RunRecord, how: PredictionSettings) -> TrainedPictures:
        graph = graph_of_run(paths.root, record, self.image_shape)
        backend = stored_network(graph, record, getattr(paths, how.checkpoint), how.execution)
        return TrainedPictures(record, self.settings, backend, channels_of(graph, self.mask_shape))


def picture_of(case: Case, settings: PictureSchema) -> FloatArray:
    image: FloatArray = (np.load(case.scans["gray"]) / settings.divide_by).astype(np.float32)[..., None]
    return image


def grid_of(shape: tuple[int, ...]) -> ScanGrid:
    x, y, z = shape
    return ScanGrid((x, y, z), np.eye(4), 1, 1)
