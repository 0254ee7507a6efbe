"""Recipe `patches3d`: volumes on the scans' own grid; a cascade of networks sees patches around their voxels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mspipeline.config import TrainingSettings
from mspipeline.datasets.case import Case
from mspipeline.errors import ConfigError, DataError, RunFolderError, UsageError
from mspipeline.preprocess.brain import require_background
from mspipeline.recipes.patches3d.prepare import apply_files
from mspipeline.recipes.patches3d.schema import PatchSchema
from mspipeline.recipes.patches3d.shard import PatchEntry, read_patch_entry, write_patch_shard
from mspipeline.recipes.scans import ScanRecipe, read_arguments
from mspipeline.shards.manifest import Manifest, entries_as
from mspipeline.shards.writer import Source, StoredShard

if TYPE_CHECKING:
    from mspipeline.recipes.prediction import Checkpoint, PredictionSettings, Trained
    from mspipeline.recipes.training import TrainingRun
    from mspipeline.runs import CascadeSettings, RunPaths, RunRecord

log = logging.getLogger(__name__)


class Patches3d(ScanRecipe[PatchSchema]):
    """Scans to patches and back."""

    kind: ClassVar[str] = "patches3d"
    schema: ClassVar[type[PatchSchema]] = PatchSchema
    example_network: ClassVar[str] = "cascade3d"
    batch_size: ClassVar[int] = 128  # as published
    inference_batch: ClassVar[int] = 1024
    supports_data_parallel: ClassVar[bool] = False
    unvalidated: ClassVar[str] = "training sets some of its patches apart instead"

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """A patch has one label, that of its centre."""
        return ()

    def write_shard(self, shards: Path, case: Case, sources: Mapping[str, Source], *, threads: int) -> PatchEntry:
        recipe = self.settings
        try:
            volume = apply_files(recipe, lesions=case.lesion_mask, **read_arguments(recipe, case))
            require_background(recipe.brain, volume.brain_origin, str(case.scans[recipe.candidates_of]))
            made = write_patch_shard(shards, case.id, volume, sources)
        except DataError as error:
            raise type(error)(f"{case.id}: {error}") from error
        log.info("shard written case=%s candidates=%d lesions=%d", case.id, made.candidates, made.lesion_voxels)
        return made

    def read_entry(self, stored: StoredShard) -> PatchEntry:
        return read_patch_entry(stored)

    def contents(self, manifest: Manifest) -> str:
        entries = entries_as(PatchEntry, manifest.cases)
        voxels, lesions = sum(entry.candidates for entry in entries), sum(entry.lesion_voxels for entry in entries)
        return f"{voxels} candidates, {lesions} lesion voxels, patches"

    def train(self, run: TrainingRun) -> bool:
        from mspipeline.recipes.patches3d.stages import train_stages  # loads numba, which takes a while

        return train_stages(run, self.settings, self.batch_size)

    def validates(self, manifest: Manifest, settings: TrainingSettings) -> bool:
        """Patches are held out where the split holds out no case."""
        return super().validates(manifest, settings) or settings.cascade.hold_out > 0

    def has_dice(self, manifest: Manifest) -> bool:
        return False  # a patch has none

    def stages(self, settings: TrainingSettings) -> int:
        return settings.cascade.stages

    def evaluation_batch_size(self, settings: TrainingSettings) -> int | None:
        return None  # voxels that are asked need no gradient: eight times as many fit

    def record_fields(self, settings: TrainingSettings) -> dict[str, Any]:
        """How the stages follow each other."""
        from mspipeline.runs import CascadeSettings

        given = settings.cascade
        cascade = CascadeSettings(
            stages=given.stages,
            pass_above=given.pass_above,
            larger_than_vox=given.larger_than_vox,
            min_total_ml=given.min_total_ml,
        )
        return {"cascade": cascade}

    def checkpoint_file(self, paths: RunPaths, record: RunRecord, checkpoint: Checkpoint, stage: int | None) -> Path:
        stages = _cascade_of(paths, record).stages
        if stage is None or not 1 <= stage <= stages:
            raise UsageError(
                f"{paths.root}: a cascade of {stages} stages, a file holds one network; name it: --stage 1"
            )
        return paths.stage(stage, checkpoint)

    def check_importable(self, where: str) -> None:
        raise ConfigError(f"{where}: a recipe of patches, expected one of slices, such as slices2d")

    def load(self, paths: RunPaths, record: RunRecord, how: PredictionSettings) -> Trained:
        from mspipeline.recipes.patches3d.predict import load_cascade  # loads numba, which takes a while

        cascade = _cascade_of(paths, record)
        return load_cascade(paths, record, self.settings, cascade, how, self.inference_batch)


def _cascade_of(paths: RunPaths, record: RunRecord) -> CascadeSettings:
    if record.cascade is None:
        raise RunFolderError(f"{paths.record}: says nothing of a cascade, and its recipe is of patches; train again")
    return record.cascade


RECIPE = Patches3d
