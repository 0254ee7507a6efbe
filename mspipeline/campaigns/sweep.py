"""The sweep file: what a campaign varies, and how its cells are prepared, trained and evaluated.

schema_version = 1
name = "demo"
separate_jobs = false           # true: training and evaluation of a cell are jobs of their own
[matrix]                        # every combination
model = ["unet2d"]
backend = ["tensorflow"]
processes = [1, 2]              # that train one cell together
seed = [0, 1]
[matrix.overrides]              # more axes: settings of the training, arguments of a network, threads, memory
"training.batch_size" = [4, 8]
"models.unet2d.base_width" = [8, 16]
[[zip]]                         # axes that vary together instead of being crossed
axes = ["training.batch_size", "models.unet2d.base_width"]
[[exclude]]                     # combinations left out: those that match every axis named
processes = 2
"training.batch_size" = 4
[models.unet2d]                 # arguments of that network's builder
depth = 4
[training]
epochs = 8
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from mspipeline.config import (
    Scalar,
    Strict,
    TrainingSettings,
    read_config,
)
from mspipeline.errors import ConfigError, nearest
from mspipeline.models import catalogue

Device = Literal["auto", "cpu", "gpu"]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.]*$")]
Combination = dict[str, Any]
"""A value for each axis. An axis of one network's arguments is there for that network alone."""
RECIPE_SETTINGS = "training.recipe."
"""Overrides that the recipe of the shards knows, when it is trained."""
BARE = ("threads", "memory")
"""Overrides that are of a cell itself, not of its training or its network."""


class Matrix(Strict):
    """Axes of the sweep, crossed; seed turns fastest, before it processes, before that the overrides in their order.

    processes: that train one cell together, each on its share of every batch. overrides: values by dotted key.
    """

    model: tuple[str, ...]
    backend: tuple[Word, ...] = ("tensorflow",)
    device: tuple[Device, ...] = ("auto",)
    seed: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    processes: tuple[PositiveInt, ...] = (1,)
    overrides: dict[str, tuple[Scalar, ...]] = Field(default_factory=dict)

    @field_validator("overrides", mode="before")
    @classmethod
    def _keys_are_dotted(cls, value: Any) -> Any:
        return _dotted(value) if isinstance(value, Mapping) else value


class Zip(Strict):
    """Axes that vary together: the first value of one goes with the first of the others."""

    axes: tuple[str, ...] = Field(min_length=2)


class EvaluateSettings(Strict):
    """How each trained cell is evaluated; see EvaluateJob. device: with separate_jobs; unset: as the training."""

    subsets: tuple[Literal["train", "validation", "test"], ...] = ()
    checkpoint: Literal["best", "last"] = "best"
    device: Device | None = None


class PrepareSettings(Strict):
    """The preparation of a sweep that is given scans. ranks: of MPI, on a SLURM site."""

    ranks: PositiveInt = 1


class Sweep(Strict):
    """A sweep file. threads: of each cell; 0 takes every core that the cell may use.

    separate_jobs: each step of a cell is a job of its own, which waits for the one before it.
    checkpoint_every_s: seconds between a cell's checkpoints within an epoch, the most that a kill or a dead node costs.
    """

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    description: str = ""
    matrix: Matrix
    exclude: tuple[dict[str, Scalar], ...] = ()
    zip: tuple[Zip, ...] = ()
    models: dict[str, dict[str, Scalar]] = Field(default_factory=dict)
    training: TrainingSettings = TrainingSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    prepare: PrepareSettings = PrepareSettings()
    threads: int = Field(0, ge=0)
    checkpoint_every_s: PositiveFloat = 300.0
    separate_jobs: bool = False

    @field_validator("exclude", mode="before")
    @classmethod
    def _exclude_keys_are_dotted(cls, value: Any) -> Any:
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        return [_dotted(each) if isinstance(each, Mapping) else each for each in value] if listed else value

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Sweep:
        if self.evaluate.device is not None and not self.separate_jobs:
            raise ValueError("evaluate.device needs separate_jobs = true: one job has one device")
        return self


def load_sweep(path: Path) -> Sweep:
    """The sweep in a TOML file, checked against the catalogue of networks.

    Raises ConfigError for a misspelt key, an unknown model or argument, and a matrix without cells.
    """
    sweep = read_config(path, Sweep)
    try:
        check(sweep)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return sweep


def check(sweep: Sweep) -> None:
    """Raise ConfigError where the sweep names what does not exist, has no cells or has one twice."""
    axes = _axes(sweep)
    for name in sweep.matrix.model:
        catalogue.check_arguments(name, sweep.models.get(name, {}))
    for name in sweep.models:
        if name not in sweep.matrix.model:
            raise ConfigError(f"[models.{name}] is not in matrix.model; {nearest(name, list(sweep.matrix.model))}")
    valid = _override_keys(sweep)
    for key in sweep.matrix.overrides:
        if key not in valid and not key.startswith(RECIPE_SETTINGS):
            raise ConfigError(f"matrix.overrides: unknown key {key!r}; {nearest(key, valid)}")
    _check_zips(sweep, axes)
    for number, exclude in enumerate(sweep.exclude, 1):
        if not exclude:
            raise ConfigError(f"exclude number {number} names no axis; give at least one of {', '.join(axes)}")
        for axis, value in exclude.items():
            if axis not in axes:
                raise ConfigError(f"exclude: {axis!r} is no axis of the matrix; {nearest(axis, list(axes))}")
            if value not in axes[axis]:
                known = [str(each) for each in axes[axis]]
                raise ConfigError(f"exclude: {axis} = {value!r} is not in matrix.{axis}; {nearest(str(value), known)}")
    for group in _groups(sweep, axes):
        rows = list(zip(*(axes[axis] for axis in group), strict=True))
        twice = [row for row, count in Counter(rows).items() if count > 1]
        if twice:
            named = " with ".join(f"matrix.{axis}" for axis in group)
            what = ", ".join(map(str, twice[0]))
            raise ConfigError(f"{named} has {what} twice: its cells would be one; write each value once")
    if not combinations_of(sweep):
        empty = [axis for axis, values in axes.items() if not values]
        reason = f"matrix.{empty[0]} is empty" if empty else "`exclude` leaves none"
        raise ConfigError(f"the sweep has no cells: {reason}; give at least one combination")


def _axes(sweep: Sweep) -> dict[str, tuple[Any, ...]]:
    """Values by axis, in the order in which they turn, slowest first."""
    matrix = sweep.matrix
    return {
        "model": matrix.model,
        "backend": matrix.backend,
        "device": matrix.device,
        **matrix.overrides,
        "processes": matrix.processes,
        "seed": matrix.seed,
    }


def _groups(sweep: Sweep, axes: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The axes that turn as one, each group where its first axis stands."""
    zipped = {axis: each.axes for each in sweep.zip for axis in each.axes}
    return list(dict.fromkeys(zipped.get(axis, (axis,)) for axis in axes))


def _check_zips(sweep: Sweep, axes: Mapping[str, tuple[Any, ...]]) -> None:
    seen: set[str] = set()
    for each in sweep.zip:
        for axis in each.axes:
            if axis not in axes:
                raise ConfigError(f"zip: {axis!r} is no axis of the matrix; {nearest(axis, list(axes))}")
            if axis in seen:
                raise ConfigError(f"zip: {axis} is named twice; name each axis in one zip, once")
            seen.add(axis)
        first = each.axes[0]
        for axis in each.axes[1:]:
            if len(axes[axis]) != len(axes[first]):
                raise ConfigError(
                    f"zip: {first} has {len(axes[first])} values and {axis} has {len(axes[axis])}; "
                    "axes that vary together need as many values each"
                )


def combinations_of(sweep: Sweep) -> list[Combination]:
    """Every combination that no `exclude` matches, once."""
    axes = _axes(sweep)
    rows = [
        [dict(zip(group, values, strict=True)) for values in zip(*(axes[axis] for axis in group), strict=True)]
        for group in _groups(sweep, axes)
    ]
    every: dict[tuple[Any, ...], Combination] = {}
    for parts in itertools.product(*rows):
        turned = {axis: value for part in parts for axis, value in part.items()}
        own = {axis: turned[axis] for axis in axes if _concerns(axis, turned["model"])}
        every.setdefault(tuple(own.items()), own)
    excludes = [each for each in sweep.exclude if each]
    return [each for each in every.values() if not any(exclude.items() <= each.items() for exclude in excludes)]


def _concerns(axis: str, model: str) -> bool:
    """Whether an axis is anything to a cell of this model: the arguments of another network are not."""
    return not axis.startswith("models.") or axis.startswith(f"models.{model}.")


def _override_keys(sweep: Sweep) -> list[str]:
    """Every key that [matrix.overrides] may have."""
    of_models = [f"models.{name}.{key}" for name in sweep.matrix.model for key in catalogue.entry(name).arguments]
    return [*(f"training.{key}" for key in _fields(TrainingSettings)), *of_models, *BARE]


def _fields(settings: type[BaseModel]) -> Iterator[str]:
    """Dotted keys of a class of settings, those of the classes inside it too."""
    for name, field in settings.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from (f"{name}.{key}" for key in _fields(inner))
        else:
            yield name


def _dotted(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one with dotted keys: TOML reads `training.epochs = 8` as a table in a table.

    >>> _dotted({"training": {"epochs": [8]}, "threads": [1]})
    {'training.epochs': [8], 'threads': [1]}
    """
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        flat.update(_dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat
