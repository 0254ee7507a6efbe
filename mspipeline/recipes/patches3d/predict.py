"""The lesions of a case, from a cascade and the voxels it starts with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mspipeline.datasets.case import Case
from mspipeline.errors import SuiteError
from mspipeline.labels import LESION, LabelMap
from mspipeline.models.stored import graph_of_run
from mspipeline.patches.candidates import Coordinates, candidates
from mspipeline.preprocess.brain import BrainOrigin
from mspipeline.recipes.patches3d.cascade import predict_cascade
from mspipeline.recipes.patches3d.prepare import apply_files
from mspipeline.recipes.patches3d.schema import PatchSchema
from mspipeline.recipes.patches3d.shard import PatchEntry, read_patch_case
from mspipeline.recipes.patches3d.voxelwise import VoxelNetwork
from mspipeline.recipes.postprocess import lesion_mask
from mspipeline.recipes.prediction import PredictionSettings, Segmentation, Trained
from mspipeline.recipes.scans import read_arguments
from mspipeline.recipes.stored_network import stored_network
from mspipeline.runs import CascadeSettings, RunPaths, RunRecord
from mspipeline.shards.manifest import ShardEntry, entries_as
from mspipeline.training.protocols import Stop
from mspipeline.volume import FloatArray, ScanGrid


@dataclass(frozen=True)
class TrainedCascade(Trained):
    """The stages of a cascade, one network each, in their order. batch_size, threads: of patches.

    stop: asked after each batch; the error it returns ends the prediction.
    """

    record: RunRecord
    settings: CascadeSettings
    recipe: PatchSchema
    stages: tuple[VoxelNetwork, ...]
    batch_size: int
    threads: int
    stop: Stop

    @property
    def device(self) -> str:
        return self.stages[0].backend.device

    @property
    def rule(self) -> str:
        cascade = self.settings
        return (
            f"a voxel is lesion where its probability is at least {self.record.threshold:g}, in the last of "
            f"{cascade.stages} stages (each passes on what is above {cascade.pass_above:g}), and its "
            f"lesion has more than {cascade.larger_than_vox} voxels (6-connected); none where all lesions have less "
            f"than {cascade.min_total_ml:g} ml"
        )

    def shard(self, shards: Path, entry: ShardEntry) -> tuple[LabelMap, Segmentation]:
        (own,) = entries_as(PatchEntry, [entry])
        case = read_patch_case(shards, own)
        return case.scan_mask.view(np.uint8), self._lesions(case.image, case.voxels.candidates, case.grid)

    def case(self, case: Case) -> tuple[Segmentation, BrainOrigin]:
        recipe = self.recipe
        prepared = apply_files(recipe, **read_arguments(recipe, case))
        places = candidates(
            prepared.image[..., recipe.candidates_channel], recipe.candidates_above, within=prepared.brain
        )
        return self._lesions(prepared.image, places, prepared.grid), prepared.brain_origin

    def _lesions(self, image: FloatArray, places: Coordinates, grid: ScanGrid) -> Segmentation:
        """The last stage's probabilities of a normalised volume, and the lesions in them.

        image: (X, Y, Z, C), C-contiguous, on the canonical axes of `grid`. places: (N, 3), the candidates.
        """
        probability = predict_cascade(
            self.stages,
            image,
            places,
            pass_above=self.settings.pass_above,
            batch_size=self.batch_size,
            threads=self.threads,
            report=lambda stage, patches, total: self._go_on(),
        )
        mask = lesion_mask(
            probability,
            threshold=self.record.threshold,
            larger_than_vox=self.settings.larger_than_vox,
            min_total_ml=self.settings.min_total_ml,
            voxel_ml=grid.voxel_ml,
        )
        return Segmentation(mask.view(np.uint8), {LESION: probability}, grid)

    def _go_on(self) -> None:
        error: SuiteError | None = self.stop()
        if error:
            raise error


def load_cascade(
    paths: RunPaths,
    record: RunRecord,
    recipe: PatchSchema,
    cascade: CascadeSettings,
    how: PredictionSettings,
    batch_size: int,
) -> TrainedCascade:
    """The stages of a run folder. batch_size: where `how` does not say.

    Raises as `Recipe.load`, and as `VoxelNetwork` where there is no dense form and one is asked for.
    """
    graph = graph_of_run(paths.root, record, recipe.image_shape)
    backends = [
        stored_network(graph, record, paths.stage(number, how.checkpoint), how.execution)
        for number in range(1, cascade.stages + 1)
    ]
    stages = tuple(
        VoxelNetwork(backend, graph, how.execution, inference=how.inference, memory_budget_mb=how.memory_budget_mb)
        for backend in backends
    )
    return TrainedCascade(
        record, cascade, recipe, stages, how.batch_size or batch_size, how.execution.threads, how.stop
    )
