"""Recipe `slices2d`: volumes resampled to one size and cut into slices; a network sees one at a time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mspipeline.config import TrainingSettings
from mspipeline.datasets.case import Case
from mspipeline.errors import DataError
from mspipeline.preprocess.brain import require_background
from mspipeline.recipes.scans import ScanRecipe, read_arguments
from mspipeline.recipes.slices2d.prepare import apply_files
from mspipeline.recipes.slices2d.schema import SliceSchema, SliceTraining
from mspipeline.recipes.slices2d.shard import SliceEntry, read_slice_entry, write_slices
from mspipeline.shards.manifest import Manifest, entries_as
from mspipeline.shards.writer import Source, StoredShard
from mspipeline.volume import ScanGrid

if TYPE_CHECKING:
    from mspipeline.recipes.prediction import PredictionSettings, Trained
    from mspipeline.recipes.training import TrainingRun
    from mspipeline.runs import RunPaths, RunRecord

log = logging.getLogger(__name__)


class Slices2d(ScanRecipe[SliceSchema]):
    """Scans to slices and back."""

    kind: ClassVar[str] = "slices2d"
    schema: ClassVar[type[SliceSchema]] = SliceSchema
    training_schema: ClassVar[type[SliceTraining]] = SliceTraining
    example_network: ClassVar[str] = "unet2d"
    takes_label_maps: ClassVar[bool] = True

    def write_shard(self, shards: Path, case: Case, sources: Mapping[str, Source], *, threads: int) -> SliceEntry:
        recipe = self.settings
        try:
            prepared = apply_files(recipe, mask=case.lesion_mask, labels=case.labels, **read_arguments(recipe, case))
            require_background(recipe.brain, prepared.brain_origin, str(case.scans[recipe.modalities[0]]))
        except DataError as error:
            raise type(error)(f"{case.id}: {error}") from error
        entry = write_slices(shards, case.id, prepared, sources, threads=threads)
        log.info("shard written case=%s slices=%d lesion_voxels=%d", case.id, entry.slices, entry.lesion_voxels)
        return entry

    def read_entry(self, stored: StoredShard) -> SliceEntry:
        return read_slice_entry(stored)

    def contents(self, manifest: Manifest) -> str:
        return f"{sum(entry.slices for entry in entries_as(SliceEntry, manifest.cases))} slices"

    def check_training(self, settings: TrainingSettings) -> None:
        super().check_training(settings)
        SliceTraining.model_validate(settings.recipe).chain(self.image_shape)

    def train(self, run: TrainingRun) -> bool:
        from mspipeline.recipes.slices2d.train import train_on_slices

        train_on_slices(run, self.batch_size)
        return True

    def has_dice(self, manifest: Manifest) -> bool:
        return any(entry.lesion_voxels for entry in entries_as(SliceEntry, manifest.subset("validation")))

    def load(self, paths: RunPaths, record: RunRecord, how: PredictionSettings) -> Trained:
        from mspipeline.recipes.slices2d.predict import load_slices_run

        return load_slices_run(paths, record, self.settings, how, self.inference_batch)

    def _written_shape(self, scan: ScanGrid) -> tuple[int, ...]:
        return self.settings.size


RECIPE = Slices2d
