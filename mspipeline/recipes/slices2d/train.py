"""One network trained on slices: those of the training cases, validated on those of the validation cases."""

from __future__ import annotations

from mspipeline.datasets.split import Subset
from mspipeline.errors import RunFolderError
from mspipeline.recipes.slices2d.batches import SliceReader
from mspipeline.recipes.slices2d.schema import SliceTraining
from mspipeline.recipes.slices2d.shard import SliceEntry
from mspipeline.recipes.training import TrainingRun
from mspipeline.shards.manifest import entries_as
from mspipeline.transforms.chain import Chain


def train_on_slices(run: TrainingRun, batch_size: int) -> None:
    """Train the network of a run to its end. batch_size: where the job does not say.

    Raises RunFolderError where the split has no training cases, and the error that `run.stop` returns.
    """
    with _reader(run, "train", batch_size) as train, _reader(run, "validation", batch_size) as validation:
        run.begin(train, validation if run.manifest.split.validation else None, None).run()


def _reader(run: TrainingRun, subset: Subset, batch_size: int) -> SliceReader:
    """The slices of a subset; those that are trained on are shuffled and transformed."""
    job, training = run.job, subset == "train"
    entries = entries_as(SliceEntry, run.manifest.subset(subset))
    if training and not entries:
        raise RunFolderError(f"{job.shards}: the split has no training cases; prepare with another split")
    own = SliceTraining.model_validate(job.training.recipe)
    return SliceReader(
        job.shards,
        entries,
        batch_size=job.training.batch_size or batch_size,
        seed=job.seed,
        shuffle=training,
        transforms=own.chain(entries[0].image_shape) if training else Chain(),
    )
