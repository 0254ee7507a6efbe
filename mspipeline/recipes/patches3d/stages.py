"""The stages of a cascade, trained one after the other; each goes on where it was stopped.

Stage 1 sees as many voxels without lesion as with. Stage 2 sees, instead of those, voxels that stage 1 takes for lesion
and that are none (Valverde et al. 2017).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from mspipeline.backends.base import Execution
from mspipeline.backends.registry import create
from mspipeline.config import CascadeTraining
from mspipeline.datasets.split import Subset
from mspipeline.errors import RunFolderError
from mspipeline.patches.augment import augmentation
from mspipeline.patches.sampling import PatchSelection, first_stage, hard_negatives, held_out
from mspipeline.recipes.patches3d.batches import PatchReader
from mspipeline.recipes.patches3d.mining import read_scores, write_scores
from mspipeline.recipes.patches3d.schema import PatchSchema
from mspipeline.recipes.patches3d.shard import PatchEntry, read_patch_case, read_voxels
from mspipeline.recipes.patches3d.voxelwise import VoxelNetwork
from mspipeline.recipes.training import TrainingRun
from mspipeline.shards.manifest import entries_as
from mspipeline.training.checkpoint import read_checkpoint
from mspipeline.training.progress import Progress, TrainingStage, is_over
from mspipeline.volume import FloatArray

INFERENCE_BATCH = 1024
Selection = Mapping[str, PatchSelection]


@dataclass(frozen=True)
class CascadeRun(TrainingRun):
    """What all stages share. recipe: of the shards. batch_size: patches of a batch of training."""

    recipe: PatchSchema
    batch_size: int

    @property
    def settings(self) -> CascadeTraining:
        return self.job.training.cascade

    @property
    def entries(self) -> list[PatchEntry]:
        """All cases."""
        return entries_as(PatchEntry, self.manifest.cases)

    def subset(self, name: Subset) -> list[PatchEntry]:
        """The cases of a subset."""
        return entries_as(PatchEntry, self.manifest.subset(name))


def train_stages(given: TrainingRun, recipe: PatchSchema, batch_size: int) -> bool:
    """Train the stages that are not trained yet, or the one that the job asks for; True once all are.

    recipe: of the shards. batch_size: where the job does not say. Raises RunFolderError where the stage asked for
    needs an earlier one, or no training case has a lesion; the error that `stop` returns; the state is saved before.
    """
    run = CascadeRun(**vars(given), recipe=recipe, batch_size=given.job.training.batch_size or batch_size)
    stages, wanted = run.settings.stages, run.job.stage
    if wanted is not None and wanted > stages:
        raise RunFolderError(
            f"{run.paths.root}: stage {wanted} of a cascade of {stages}; raise training.cascade.stages"
        )
    stage = TrainingStage(1)
    while stage.number <= stages:
        trained = _trained(run, stage)
        if trained is None:
            if wanted is not None and stage.number > wanted:
                return False
            if wanted is not None and stage.number < wanted:
                raise RunFolderError(
                    f"{run.paths.root}: stage {stage.number} is not trained to its end; train it before stage {wanted}"
                )
            trained = _train_stage(run, stage)
        done = stage.epochs_before + trained.epoch - 1
        collapse = stage.collapse_before or trained.predictions.collapse(done, run.job.training.epochs, over=True)
        stage = TrainingStage(stage.number + 1, done, (*stage.rows_before, *trained.rows), collapse)
    return True


def _trained(run: CascadeRun, stage: TrainingStage) -> Progress | None:
    """How a stage ended; None where it has not."""
    path = run.paths.stage(stage.number, "last")
    if not path.exists():
        return None
    progress = Progress.from_json(read_checkpoint(path).progress)
    return progress if is_over(progress, run.job.training) else None


def _train_stage(run: CascadeRun, stage: TrainingStage) -> Progress:
    train, validation = _selections(run, stage)
    with ExitStack() as readers:
        train_reader = readers.enter_context(_reader(run, train, shuffle=True))
        validation_reader = readers.enter_context(_reader(run, validation, shuffle=False)) if validation else None
        return run.begin(train_reader, validation_reader, stage).run()


def _reader(run: CascadeRun, selection: Selection, *, shuffle: bool) -> PatchReader:
    """A reader of the selected patches; those that are trained on are shuffled and augmented."""
    return PatchReader(
        run.job.shards,
        [entry for entry in run.entries if entry.case in selection],
        patch_size=run.recipe.patch_size,
        selection=selection,
        batch_size=run.batch_size,
        seed=run.job.seed,
        shuffle=shuffle,
        augment=augmentation(run.job.training.cascade.augment) if shuffle else None,
    )


def _selections(run: CascadeRun, stage: TrainingStage) -> tuple[Selection, Selection]:
    """The patches to train on and those to validate on: of the validation cases, or held out where there are none."""
    subsets = [run.subset("train"), run.subset("validation")]
    entries = [entry for subset in subsets for entry in subset if entry.lesion_voxels]  # as published: no others
    chosen = {entry.case: _first(run, entry) for entry in entries} if stage.number == 1 else _hard(run, stage, entries)
    train, validation = ({e.case: chosen[e.case] for e in subset if e.case in chosen} for subset in subsets)
    if not train:
        raise RunFolderError(
            f"{run.job.shards}: no training case has a lesion, so there is nothing to learn from; prepare other cases"
        )
    if validation or not run.settings.hold_out:
        return train, validation
    return held_out(train, run.settings.hold_out, run.job.seed)


def _first(run: CascadeRun, entry: PatchEntry) -> PatchSelection:
    voxels = read_voxels(run.job.shards, entry)
    return first_stage(voxels, case=entry.case, seed=run.job.seed, negatives=run.settings.negatives)


def _hard(run: CascadeRun, stage: TrainingStage, entries: Sequence[PatchEntry]) -> Selection:
    """The selections of a later stage: negatives that the stage before it takes for lesion."""
    scores = _scores(run, stage, entries)
    channel = run.recipe.candidates_channel
    chosen = {}
    for entry in entries:
        volume = read_patch_case(run.job.shards, entry)
        chosen[entry.case] = hard_negatives(
            volume.voxels,
            scores[entry.case],
            volume.image[..., channel][tuple(volume.voxels.candidates.T)],
            case=entry.case,
            seed=run.job.seed,
            above=run.settings.hard_above,
            negatives=run.settings.negatives,
        )
    return chosen


def _scores(run: CascadeRun, stage: TrainingStage, entries: Sequence[PatchEntry]) -> dict[str, FloatArray]:
    """What the stage before says of every candidate of these cases; asked once, and kept in the run folder."""
    path = run.paths.scores(stage.number - 1)
    if path.exists():
        return read_scores(path, config_hash=run.config_hash)
    scores: dict[str, FloatArray] = {}
    with run.events.phase("mining"):
        total = sum(entry.candidates for entry in entries)
        network = _network_of(run, stage.number - 1)
        run.observer.epoch_begins(stage.epochs_before, stage.epochs_before, "mining", total // INFERENCE_BATCH, 0)
        before, reported, began = 0, 0, time.perf_counter()

        def done(voxels: int) -> None:
            nonlocal reported
            seconds = max(time.perf_counter() - began, 1e-9)
            steps = (before + voxels) // INFERENCE_BATCH
            for _ in range(steps - reported):
                run.observer.step_done(math.nan, math.nan, (before + voxels) / seconds)
            reported = steps
            if error := run.stop():
                raise error

        for entry in entries:
            volume = read_patch_case(run.job.shards, entry)
            scores[entry.case] = network.predict(
                volume.image, volume.voxels.candidates, batch_size=INFERENCE_BATCH, threads=run.threads, report=done
            )
            before += entry.candidates
    write_scores(path, scores, config_hash=run.config_hash)
    return scores


def _network_of(run: CascadeRun, stage: int) -> VoxelNetwork:
    """A trained stage, to be asked at voxels."""
    execution = Execution(run.job.device, run.threads, run.job.seed, run.job.memory)
    backend = create(run.job.backend)
    backend.build(run.graph, execution)
    backend.set_weights(read_checkpoint(run.paths.stage(stage, "best")).weights)
    return VoxelNetwork(backend, run.graph, execution)
