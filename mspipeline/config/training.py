"""How a network is trained: the keys of a training's configuration, and what follows from them."""

from __future__ import annotations

from typing import Any, Literal, get_type_hints

from pydantic import (
    Field,
    JsonValue,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from mspipeline.config.strict import Scalar, Strict
from mspipeline.errors import nearest
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

OF_OPTIMIZERS = frozenset(key for kind in OPTIMIZERS.built_in.values() for key in setting_names(kind))
"""What can be set of the suite's own optimizers, each a key of `TrainingSettings`."""


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
    optimizer_settings: settings of a package's optimizer that the suite's own do not have, held to the types that it
        states.
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
    recipe: dict[str, JsonValue] = Field(default_factory=dict)
    optimizer_settings: dict[str, Scalar] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A training without settings of its recipe's or optimizer's own is kept as before there were such settings."""
        document: dict[str, Any] = serialize(self)
        for key in ("recipe", "optimizer_settings"):
            if not document.get(key):
                document.pop(key, None)
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

    @model_validator(mode="after")
    def _settings_of_its_own_fit_the_optimizer(self) -> TrainingSettings:
        kind = OPTIMIZERS[self.optimizer]
        own, types = sorted({*setting_names(kind)} - OF_OPTIMIZERS), get_type_hints(kind)
        for key, value in self.optimizer_settings.items():
            if key in OF_OPTIMIZERS:
                raise ValueError(f"optimizer_settings.{key}: a setting of the suite's own optimizers; set it as {key}")
            if key not in own:
                expected = nearest(key, own) if own else "it has no settings of its own"
                raise ValueError(f"optimizer_settings: unknown setting {key!r} of {self.optimizer!r}; {expected}")
            try:
                TypeAdapter(types[key]).validate_python(value, strict=True)
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                raise ValueError(f"optimizer_settings.{key}: {reason.lower()}; received: {value!r}") from error
        make_optimizer(self.optimizer, self.optimizer_settings)  # refuses values that it cannot have
        return self

    @property
    def chosen_optimizer(self) -> Optimizer:
        """The optimizer with its settings, defaults in place of those that are unset."""
        given = {key: getattr(self, key) for key in OF_OPTIMIZERS}
        return make_optimizer(self.optimizer, {**given, "clip_norm": self.clip_norm or None, **self.optimizer_settings})

    @property
    def chosen_schedule(self) -> Schedule:
        """The schedule with its settings, defaults in place of those that are unset."""
        return make_schedule(self.schedule, vars(self))

    def identity(self) -> dict[str, Any]:
        """All that decides a training, as plain data: defaults in place of what is unset, nothing that has no effect.

        As it was when there was Adam alone, without a name, for trainings that are as they could be then.
        """
        tables = (OPTIMIZERS.built_in, SCHEDULES.built_in)
        of_all = {key for table in tables for kind in table.values() for key in setting_names(kind)} - {"clip_norm"}
        dropped = {*of_all, "optimizer_settings"}
        settings = {key: value for key, value in self.model_dump(mode="json").items() if key not in dropped}
        optimizer = vars(self.chosen_optimizer)
        settings |= vars(self.chosen_schedule)
        settings |= {key: value for key, value in optimizer.items() if key in of_all}
        if own := {key: value for key, value in optimizer.items() if key not in OF_OPTIMIZERS}:
            settings["optimizer_settings"] = own
        if settings["optimizer"] == "adam":
            del settings["optimizer"]
        return settings
