"""What a recipe is: one way from a case to samples and back.

A recipe finds the cases of a dataset, makes a shard of each, trains networks on batches of the shards, and predicts a
case with what was trained. Nobody outside this package asks which recipe it is: they ask the recipe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from mspipeline.config import Strict, TrainingSettings, parse
from mspipeline.datasets.case import Case
from mspipeline.datasets.layouts import Found, Masks
from mspipeline.errors import ConfigError, UsageError
from mspipeline.files import sha256_data
from mspipeline.labels import LESIONS, LabelSet
from mspipeline.preprocess.brain import BrainChoice, BrainSource
from mspipeline.shards.manifest import Manifest, ShardEntry
from mspipeline.shards.writer import Source, StoredShard

if TYPE_CHECKING:  # to prepare, no rank waits for what trains and predicts to load
    from mspipeline.recipes.prediction import Checkpoint, PredictionSettings, Trained
    from mspipeline.recipes.training import TrainingRun
    from mspipeline.runs import RunPaths, RunRecord


class NoSettings(Strict):
    """Of a recipe whose trainings have no settings but those of every training."""


class Schema(Strict, ABC):
    """Every number of a recipe, stored and hashed with the shards that it made."""

    @property
    def hash(self) -> str:
        """SHA-256 of every key and value."""
        return sha256_data(self.model_dump(mode="json"))

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, ...]:
        """(*spatial, C) of what a network sees at once."""


@dataclass(frozen=True)
class Inspection:
    """What the headers of a case's files tell. cost: of its shard, estimated. resampled: file -> how it comes
    onto the reference's grid.

    offsets_mm: file -> how far its grid lies from the reference's, where it is taken for the same all the same.
    unplaced: files whose headers have neither form.
    """

    cost: float
    resampled: Mapping[str, str] = field(default_factory=dict)
    offsets_mm: Mapping[str, float] = field(default_factory=dict)
    unplaced: tuple[str, ...] = ()


S_co = TypeVar("S_co", bound=Schema, covariant=True)


@dataclass(frozen=True)
class Recipe(ABC, Generic[S_co]):
    """One way from a case to samples and back, with its numbers.

    kind: its name, in files too. schema: of its numbers. training_schema: of `[training.recipe]`. example_network: one
    that is trained on its shards. batch_size, inference_batch: images of a batch where a job does not say.
    takes_label_maps: whether masks may be of any label set, not of lesions alone.
    supports_data_parallel: whether several processes can share a training. unvalidated: what follows from a split
    without validation cases, in words.
    """

    kind: ClassVar[str]
    schema: ClassVar[type[Schema]]
    training_schema: ClassVar[type[Strict]] = NoSettings
    example_network: ClassVar[str]
    batch_size: ClassVar[int] = 8
    inference_batch: ClassVar[int] = 8
    takes_label_maps: ClassVar[bool] = False
    supports_data_parallel: ClassVar[bool] = True
    unvalidated: ClassVar[str] = "the best checkpoint will be that of the lowest training loss"

    settings: S_co

    @property
    def hash(self) -> str:
        """Of all its numbers."""
        return self.settings.hash

    @property
    def document(self) -> dict[str, Any]:
        """Its numbers as plain data, with its kind; `catalogue.recipe_of` reads it back."""
        return self.settings.model_dump(mode="json")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(*spatial, C) of what a network sees at once."""
        return self.settings.image_shape

    @property
    @abstractmethod
    def channels(self) -> tuple[str, ...]:
        """What each channel of an image is."""

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """The spatial axes of an image's mask; () where an image has one label."""
        return self.image_shape[:-1]

    # From scans to shards

    @abstractmethod
    def find(self, dataset: Path, *, masks: Masks, prefer: Sequence[str] = (), change_masks: bool = False) -> Found:
        """The cases of a dataset. Arguments and errors as of `datasets.layouts.find_cases`."""

    def check_labels(self, labels: LabelSet, *, where: str) -> None:
        """Raise ConfigError where the recipe cannot be of these labels. where: names what has them in the error."""
        if labels != LESIONS and not self.takes_label_maps:
            raise ConfigError(
                f"{where}: masks of {labels.words}, and recipe {self.kind} is of lesions alone, {LESIONS.words}; "
                "choose a recipe of label maps, such as slices2d"
            )

    def check_together(self, dataset: Path, cases: Sequence[Case]) -> None:
        """Raise DatasetError where cases, each complete, cannot be prepared in one way."""

    @abstractmethod
    def files(self, case: Case) -> dict[str, Path]:
        """Name -> each file that a case's shard is made from."""

    @abstractmethod
    def inputs(self, case: Case) -> dict[str, Path]:
        """Those of a case's files that a network sees, in their order."""

    @abstractmethod
    def inspect(self, case: Case) -> Inspection:
        """Look at the headers of a case's files. Raises DatasetError and VolumeError for what cannot be prepared."""

    @abstractmethod
    def write_shard(self, shards: Path, case: Case, sources: Mapping[str, Source], *, threads: int) -> ShardEntry:
        """Prepare a case and write its shard; the same bytes for any number of threads.

        Raises DataError, named by the case, where its files cannot be prepared, StorageError where the disk refuses.
        """

    @abstractmethod
    def read_entry(self, stored: StoredShard) -> ShardEntry:
        """What `write_shard` returned for a shard that is there. Raises ShardError where it is damaged."""

    @abstractmethod
    def contents(self, manifest: Manifest) -> str:
        """How many images, of what, its shards hold, in words that precede "of 256x256x1"."""

    # From shards to a trained network

    @abstractmethod
    def train(self, run: TrainingRun) -> bool:
        """Train, or go on with, every network of a run; False where a part is left that the job does not ask for.

        Raises RunFolderError where there is nothing to train on, and the error that `run.stop` returns;
        the state is saved before.
        """

    def check_training(self, settings: TrainingSettings) -> None:
        """Raise ConfigError where `[training.recipe]` does not fit this recipe."""
        if settings.recipe and not self.training_schema.model_fields:
            keys = ", ".join(settings.recipe)
            raise ConfigError(f"training.recipe: recipe {self.kind} has no settings of its own; remove {keys}")
        parse(settings.recipe, self.training_schema, where="training.recipe")

    def validates(self, manifest: Manifest, settings: TrainingSettings) -> bool:
        """Whether a training has anything to validate on."""
        return bool(manifest.split.validation)

    @abstractmethod
    def has_dice(self, manifest: Manifest) -> bool:
        """Whether validation has a Dice whatever is predicted: voxels are predicted, and a case has a lesion."""

    def stages(self, settings: TrainingSettings) -> int:
        """Trainings that follow each other in a run; each may be a job of its own (`TrainJob.stage`)."""
        return 1

    def evaluation_batch_size(self, settings: TrainingSettings) -> int | None:
        """Images of a batch when a sweep evaluates what it trained; None for the recipe's own number."""
        return settings.batch_size

    def record_fields(self, settings: TrainingSettings) -> dict[str, Any]:
        """Fields of `run.json` that predictions with the run need beside those of every run."""
        return {}

    def checkpoint_file(self, paths: RunPaths, record: RunRecord, checkpoint: Checkpoint, stage: int | None) -> Path:
        """The file of one network of a run. stage: of a run of several, counted from 1.

        Raises UsageError where the stage does not tell which network is meant.
        """
        if stage is not None:
            raise UsageError(f"{paths.root}: one network, not a cascade; leave out --stage")
        return paths.best if checkpoint == "best" else paths.last

    def check_importable(self, where: str) -> None:
        """Raise ConfigError where one network that was trained elsewhere cannot be a run of this recipe."""

    # From a trained network to labels

    @abstractmethod
    def load(self, paths: RunPaths, record: RunRecord, how: PredictionSettings) -> Trained:
        """What a run folder holds, ready to predict.

        Raises RunFolderError where the folder or its checkpoint cannot be used, ShapeError where the network gives no
        probabilities of labels, BackendError where the backend is absent.
        """

    def with_brain(self, brain: BrainChoice) -> Self:
        """The same with brains from elsewhere. Raises ConfigError where the recipe asks for none."""
        raise ConfigError(f"--brain {brain}: recipe {self.kind} looks for no brain; leave it out")

    def brain_sources(self, dataset: Path, cases: Sequence[Case]) -> dict[str, BrainSource]:
        """Case -> where its brain comes from; empty for a recipe that looks for none.

        Raises DatasetError where masks are insisted on and some are missing.
        """
        return {}
