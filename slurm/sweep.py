"""The sweep file: which cells a campaign has.

schema_version = 1
name = "demo"
[matrix]                    # every combination
model = ["unet2d"]
backend = ["tensorflow"]
seed = [0, 1]
[models.unet2d]             # arguments of that network's builder
base_width = 8
[training]
epochs = 8
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from mspipeline.config import (
    EvaluateJob,
    ModelSettings,
    Scalar,
    Strict,
    TrainingSettings,
    TrainJob,
    nearest,
    read_config,
)
from mspipeline.errors import ConfigError
from mspipeline.models import catalogue

Device = Literal["auto", "cpu", "gpu"]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.]*$")]


class Matrix(Strict):
    """Axes of the sweep, crossed in this order; the last turns fastest."""

    model: tuple[str, ...]
    backend: tuple[Word, ...] = ("tensorflow",)
    device: tuple[Device, ...] = ("auto",)
    seed: tuple[Annotated[int, Field(ge=0)], ...] = (0,)


class Exclude(Strict):
    """Combinations left out: those that match every axis named here."""

    model: str | None = None
    backend: Word | None = None
    device: Device | None = None
    seed: int | None = None


class EvaluateSettings(Strict):
    """How each trained cell is evaluated; see EvaluateJob."""

    subsets: tuple[Literal["train", "validation", "test"], ...] = ()
    checkpoint: Literal["best", "last"] = "best"


class Sweep(Strict):
    """A sweep file. threads: of each cell; 0 takes every core that the cell may use."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    description: str = ""
    matrix: Matrix
    exclude: tuple[Exclude, ...] = ()
    models: dict[str, dict[str, Scalar]] = Field(default_factory=dict)
    training: TrainingSettings = TrainingSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    threads: int = Field(0, ge=0)


@dataclass(frozen=True)
class Cell:
    """One cell of a sweep: its name, unique in the campaign, and its two jobs."""

    id: str
    train: TrainJob
    evaluate: EvaluateJob


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
    for number, exclude in enumerate(sweep.exclude, 1):
        chosen = exclude.model_dump(exclude_none=True)
        if not chosen:
            raise ConfigError(f"exclude number {number} names no axis; give at least one of {', '.join(axes)}")
        for axis, value in chosen.items():
            if value not in axes[axis]:
                known = [str(each) for each in axes[axis]]
                raise ConfigError(f"exclude: {axis} = {value!r} is not in matrix.{axis}; {nearest(str(value), known)}")
    for axis, values in axes.items():
        twice = [str(value) for value in values if values.count(value) > 1]
        if twice:
            raise ConfigError(f"matrix.{axis} has {twice[0]} twice: its cells would be one; write each value once")
    if not _combinations(sweep):
        empty = [axis for axis, values in axes.items() if not values]
        reason = f"matrix.{empty[0]} is empty" if empty else "`exclude` leaves none"
        raise ConfigError(f"the sweep has no cells: {reason}; give at least one combination")


def cells(sweep: Sweep, shards: Path, campaign_folder: Path) -> list[Cell]:
    """The cells of a sweep, in the order of its matrix; each writes to `campaign_folder`/cells/<id>.

    The id says what tells the cells apart: model, backend, device where the matrix has several, seed. Cells of a
    network that runs on several backends look for certificates in `campaign_folder`/certificates.
    Raises ConfigError as `check` does.
    """
    check(sweep)
    found = []
    combinations = _combinations(sweep)
    for combination in combinations:
        model, backend, device, seed = (combination[axis] for axis in ("model", "backend", "device", "seed"))
        parts = [model, backend, *([device] if len(sweep.matrix.device) > 1 else []), f"s{seed}"]
        cell_id = "-".join(parts)
        run_folder = campaign_folder / "cells" / cell_id
        several = len({each["backend"] for each in combinations if each["model"] == model}) > 1
        train = TrainJob(
            model=ModelSettings(name=model, arguments=sweep.models.get(model, {})),
            backend=backend,
            device=device,
            seed=seed,
            threads=sweep.threads,
            shards=shards,
            run_folder=run_folder,
            training=sweep.training,
            certificates=campaign_folder / "certificates" if several else None,
            campaign=sweep.name,
            cell=cell_id,
        )
        evaluate = EvaluateJob(
            run_folder=run_folder,
            shards=shards,
            subsets=sweep.evaluate.subsets,
            checkpoint=sweep.evaluate.checkpoint,
            batch_size=sweep.training.batch_size,
            threads=sweep.threads,
        )
        found.append(Cell(cell_id, train, evaluate))
    return found


def _axes(sweep: Sweep) -> dict[str, tuple[Any, ...]]:
    """Values by axis, in the order of the matrix."""
    return {axis: getattr(sweep.matrix, axis) for axis in Matrix.model_fields}


def _combinations(sweep: Sweep) -> list[dict[str, Any]]:
    """Every combination that no `exclude` matches."""
    axes = _axes(sweep)
    every = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    excludes = [exclude.model_dump(exclude_none=True) for exclude in sweep.exclude]
    return [each for each in every if not any(exclude.items() <= each.items() for exclude in excludes if exclude)]
