"""Configuration: frozen, complete before work starts, and read here alone.

A misspelt key, a wrong type or a value out of range is one line: file, key, what was expected, the nearest valid key.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from mspipeline.errors import ConfigError, nearest
from mspipeline.files import read_text
from mspipeline.losses import LOSSES
from mspipeline.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    Optimizer,
    Schedule,
    make_optimizer,
    make_schedule,
    setting_names,
)
from mspipeline.plugins import Registry


class Strict(BaseModel):
    """Base of every configuration: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Settings = TypeVar("Settings", bound=Strict)
Scalar = bool | int | float | str


class ModelSettings(Strict):
    """Which network, with which arguments of its builder (see `mspipeline models`).

    name: may be `FILE.py:FUNCTION`. file_sha256: of that file when the job was made; unset for other networks.
    """

    name: str
    arguments: dict[str, Scalar] = {}
    file_sha256: str | None = None

    @property
    def plain_name(self) -> str:
        """The name as a part of a folder's name: of a function in a file, the file's and its own."""
        file, _, function = self.name.partition(":")
        return re.sub(r"[^A-Za-z0-9_-]+", "_", f"{Path(file).stem}_{function}") if function else self.name


class CascadeTraining(Strict):
    """How a cascade of networks on patches is trained. Defaults follow Valverde et al. 2017; without effect on slices.

    stages: networks, trained one after the other; 1 trains the first alone.
    negatives: of each case, as a multiple of its lesion voxels. hard_above: the first stage's probability above which a
        voxel without lesion is one of the second's hard negatives.
    hold_out: share of the training patches that validation takes where the split has no validation cases.
    augment: what happens to a batch's patches; see patches.augment.AUGMENTATIONS.
    pass_above, larger_than_vox, min_total_ml: of prediction; see runs.CascadeSettings.
    """

    stages: int = Field(2, ge=1, le=2)
    negatives: PositiveFloat = 1.0
    hard_above: float = Field(0.5, ge=0, lt=1)
    hold_out: float = Field(0.25, ge=0, lt=1)
    augment: Literal["none", "published", "mirrors", "symmetries", "rich"] = "published"
    pass_above: float = Field(0.8, ge=0, lt=1)
    larger_than_vox: int = Field(10, ge=0)
    min_total_ml: float = Field(0.0, ge=0)


class TrainingSettings(Strict):
    """How a network is trained. Defaults follow the 2021 report where it says (batch 8, Adam, 128 epochs).

    batch_size: unset is 8 slices, or 128 patches. loss: `auto` is binary cross-entropy plus soft Dice over the batch
        ("bce_dice", with which the output begins at 0.01) for one probability, categorical cross-entropy for those of
        several classes.
    optimizer: a name in `optimizers.OPTIMIZERS`. learning_rate, beta1, beta2, epsilon, momentum, nesterov,
        weight_decay, rho: its settings, unset its own defaults; one that it does not have is refused.
    warmup_steps: optimizer steps in which the learning rate grows in equal parts to its value; 0 begins with it.
    schedule: of the learning rate after that, a name in `optimizers.SCHEDULES`: `constant`, falling to nearly 0 in the
        last epoch (`cosine`, `poly`), or by `step_factor` after every `step_epochs` epochs (`step`).
    clip_norm: the largest norm of a step's gradient over all weights; a longer one is shortened to it. 0 clips nothing.
    patience: epochs without an improvement of `monitor` before training stops; 0 never stops early.
    monitor: what early stopping and the best checkpoint watch; `auto` is the validation Dice, the validation loss where
        no validation case has a lesion and for patches, the training loss where the split has no validation cases.
    threshold: probability from which a voxel counts as lesion.
    recipe: settings of the recipe's own, for recipes that have some (`Recipe.training_schema`); `cascade` has those of
        `patches3d`.
    """

    epochs: PositiveInt = 128
    batch_size: PositiveInt | None = None
    loss: str = "auto"
    optimizer: str = "adam"
    learning_rate: PositiveFloat | None = None
    beta1: float | None = Field(None, ge=0, lt=1)
    beta2: float | None = Field(None, ge=0, lt=1)
    epsilon: PositiveFloat | None = None
    momentum: float | None = Field(None, ge=0, lt=1)
    nesterov: bool | None = None
    weight_decay: float | None = Field(None, ge=0, allow_inf_nan=False)
    rho: float | None = Field(None, ge=0, lt=1)
    warmup_steps: int = Field(100, ge=0)
    schedule: str = "constant"
    step_factor: float | None = Field(None, gt=0, le=1)
    step_epochs: PositiveInt | None = None
    clip_norm: float = Field(1.0, ge=0, allow_inf_nan=False)
    patience: int = Field(0, ge=0)
    min_delta: float = Field(0.0, ge=0)
    monitor: Literal["auto", "validation_loss", "validation_dice", "train_loss"] = "auto"
    threshold: float = Field(0.5, gt=0, lt=1)
    cascade: CascadeTraining = CascadeTraining()
    recipe: dict[str, Scalar] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A training without settings of its recipe's own is named and hashed as before there were such settings."""
        document: dict[str, Any] = serialize(self)
        if not document.get("recipe"):
            document.pop("recipe", None)
        return document

    @field_validator("loss", "optimizer", "schedule")
    @classmethod
    def _is_known(cls, name: str, info: ValidationInfo) -> str:
        tables = {"loss": ["auto", *LOSSES], "optimizer": list(OPTIMIZERS), "schedule": list(SCHEDULES)}
        if name not in tables[str(info.field_name)]:
            raise ValueError(f"unknown {info.field_name} {name!r}; {nearest(name, tables[str(info.field_name)])}")
        return name

    @model_validator(mode="after")
    def _settings_are_the_chosen_ones(self) -> TrainingSettings:
        chosen: tuple[tuple[str, str, Registry[Any]], ...] = (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
        )
        for what, name, table in chosen:
            own = setting_names(table[name])
            others = {key for kind in table.built_in.values() for key in setting_names(kind)} - {*own}
            foreign = sorted(key for key in others if getattr(self, key, None) is not None)
            if foreign:
                settable = ", ".join(key for key in own if key in type(self).model_fields) or "no settings of its own"
                raise ValueError(f"{', '.join(foreign)}: not of {what} {name!r}, which has {settable}")
        return self

    @property
    def chosen_optimizer(self) -> Optimizer:
        """The optimizer with its settings, defaults in place of those that are unset."""
        return make_optimizer(self.optimizer, {**vars(self), "clip_norm": self.clip_norm or None})

    @property
    def chosen_schedule(self) -> Schedule:
        """The schedule with its settings, defaults in place of those that are unset."""
        return make_schedule(self.schedule, vars(self))

    def identity(self) -> dict[str, Any]:
        """All that decides a training, as plain data: defaults in place of what is unset, nothing that has no effect.

        As it was when there was Adam alone, without a name, for trainings that are as they could be then.
        """
        chosen = {"optimizer": self.chosen_optimizer, "schedule": self.chosen_schedule}
        tables = (OPTIMIZERS.built_in, SCHEDULES.built_in)
        of_all = {key for table in tables for kind in table.values() for key in setting_names(kind)} - {"clip_norm"}
        settings = {key: value for key, value in self.model_dump(mode="json").items() if key not in of_all}
        for each in chosen.values():
            settings |= {key: value for key, value in vars(each).items() if key != "clip_norm"}
        if settings["optimizer"] == "adam":
            del settings["optimizer"]
        return settings


class TrainJob(Strict):
    """One training: `python -m mspipeline.jobs train FILE`.

    shards: folder made by `mspipeline prepare`. run_folder: where this run writes.
    threads: of the framework; 0 takes every core this process may use. memory: PyEDDL's level, without effect on the
    other backends. certificates: folder in which to look for one that says that this backend's network is another's.
    stage: of a cascade, the one to train, counted from 1; all of them where unset. campaign, cell: set by a sweep.
    checkpoint_every_s: seconds between checkpoints within an epoch, the most that a kill or a dead node costs.
    processes: that train together, each on its share of every batch; see backends.process_group.
    """

    model: ModelSettings
    backend: str = "tensorflow"
    device: Literal["auto", "cpu", "gpu"] = "auto"
    memory: Literal["low_mem", "mid_mem", "full_mem"] = "mid_mem"
    seed: int = Field(0, ge=0)
    threads: int = Field(0, ge=0)
    processes: PositiveInt = 1
    shards: Path
    run_folder: Path
    training: TrainingSettings = TrainingSettings()
    certificates: Path | None = None
    stage: PositiveInt | None = None
    checkpoint_every_s: PositiveFloat = 300.0
    campaign: str = ""
    cell: str = ""


Inference = Literal["auto", "dense", "patches"]
Device = Literal["auto", "cpu", "gpu"]


class EvaluateJob(Strict):
    """One evaluation of a run on the cases of some subsets: `python -m mspipeline.jobs evaluate FILE`.

    subsets: of `train`, `validation`, `test`; empty means those of validation and test that have cases.
    device, batch_size, inference, memory_budget_mb: as in PredictJob.
    """

    run_folder: Path
    shards: Path
    subsets: tuple[Literal["train", "validation", "test"], ...] = ()
    checkpoint: Literal["best", "last"] = "best"
    device: Device = "auto"
    batch_size: PositiveInt | None = None
    threads: int = Field(0, ge=0)
    inference: Inference = "auto"
    memory_budget_mb: PositiveInt = 1024


class PredictJob(Strict):
    """Lesion maps for a folder of scans, written as a BIDS derivative: `python -m mspipeline.jobs predict FILE`.

    batch_size: unset is 8 slices, or 1,024 patches. prefer: as in PrepareJob.
    brain: where brains come from, in place of what the recipe of the training has; see preprocess.brain.
    inference: of a cascade, patch by patch, by dense tiles, which give the same probabilities, or what needs less
        arithmetic at each tile. memory_budget_mb: by which dense tiles may make the process grow, at most.
    """

    run_folder: Path
    dataset: Path
    output: Path
    checkpoint: Literal["best", "last"] = "best"
    device: Device = "auto"
    batch_size: PositiveInt | None = None
    threads: int = Field(0, ge=0)
    skip_incomplete: bool = False
    prefer: tuple[str, ...] = ()
    brain: Literal["auto", "mixed", "mask", "nonzero"] | None = None
    inference: Inference = "auto"
    memory_budget_mb: PositiveInt = 1024


class SplitSettings(Strict):
    """How cases are dealt to subsets: by subject, never by slice. Shares of the number of subjects."""

    seed: int = Field(0, ge=0)
    validation: float = Field(0.2, ge=0, lt=1)
    test: float = Field(0.2, ge=0, lt=1)
    file: Path | None = None


class PrepareJob(Strict):
    """Scans to shards: `python -m mspipeline.jobs prepare FILE`. recipe: a built-in name or a TOML file.

    resample_to: modality onto whose grid the other files of a case are put; the recipe's own where unset.
    change_mask: take a mask of lesions that changed between two studies for a lesion mask (raw open-MS data).
    prefer: which of several files of one kind to take, by an entity of its name ("run-1", "desc-consensus"), its folder
        of derivatives or its ending (".nii.gz"), in this order.
    """

    dataset: Path
    output: Path
    recipe: str = "slices2d"
    split: SplitSettings = SplitSettings()
    skip_incomplete: bool = False
    resample_to: str | None = None
    change_mask: bool = False
    prefer: tuple[str, ...] = ()


class CollectJob(Strict):
    """Run folders to Parquet tables: `python -m mspipeline.jobs collect FILE`."""

    runs: Path
    output: Path


class CertifyJob(Strict):
    """What one backend makes of a network, for a certificate: `python -m mspipeline.jobs certify FILE`.

    image_shape: spatial axes, channels last. batch_size: 0 chooses one. optimizers: of each of which a step is taken.
    evidence: the file to write.
    """

    model: ModelSettings
    image_shape: tuple[PositiveInt, ...]
    backend: str
    device: Literal["auto", "cpu", "gpu"] = "auto"
    threads: PositiveInt = 1
    seed: int = Field(0, ge=0)
    batch_size: int = Field(0, ge=0)
    optimizers: tuple[str, ...] = Field(tuple(OPTIMIZERS.built_in), min_length=1)
    evidence: Path


def read_config(path: Path, schema: type[Settings]) -> Settings:
    """The settings in a TOML file (or JSON, by its ending).

    Raises ConfigError where the file is missing, not TOML, or does not fit `schema`.
    """
    try:
        text = read_text(path)
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeError, OSError, RecursionError) as error:
        raise ConfigError(f"{path}: not readable as a configuration file: {error}") from error
    return parse(document, schema, where=str(path))


def parse(document: Mapping[str, Any], schema: type[Settings], *, where: str) -> Settings:
    """`document` as `schema`; `where` names its source in the error line. Raises ConfigError."""
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        problems = [_say(problem, schema) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(problems)) from error


def _say(problem: Any, schema: type[BaseModel]) -> str:
    """One validation problem in words."""
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ")
        # Our own validators name what they received, and a whole table is no answer to anybody.
        named = problem["type"] in ("missing", "value_error") or isinstance(problem["input"], Mapping)
        received = "" if named else f"; received: {problem['input']!r}"
        return f"{location}{': ' if location else ''}{message[0].lower()}{message[1:]}{received}"
    owner = _owner(schema, problem["loc"][:-1])
    key = str(problem["loc"][-1])
    return f"unknown key {location!r}" + (f"; {nearest(key, list(owner.model_fields))}" if owner else "")


def _owner(schema: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The settings class at a location inside `schema`, where it can be told."""
    for part in location:
        if not isinstance(part, str) or part not in schema.model_fields:
            continue  # a list index or a mapping's key: the class stays that of its values
        annotation = schema.model_fields[part].annotation
        inner = [annotation, *getattr(annotation, "__args__", ())]
        classes = [c for c in inner if isinstance(c, type) and issubclass(c, BaseModel)]
        if not classes:
            return None
        schema = classes[0]
    return schema


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` words of a command line as a mapping; values are read as TOML, and as plain text where they are not.

    >>> parse_assignments(["size=[64, 64, 48]", "brain=mask"])
    {'size': [64, 64, 48], 'brain': 'mask'}
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"--set {assignment}: expected KEY=VALUE, e.g. --set base_width=16")
        try:
            values[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key] = text
    return values
