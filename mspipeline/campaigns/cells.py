"""The cells of a sweep: one combination of its matrix each, with a name, a run folder and the steps of its work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mspipeline.campaigns.sweep import Combination, Sweep, check, combinations_of
from mspipeline.config import EvaluateJob, Scalar, TrainJob, parse
from mspipeline.errors import ConfigError
from mspipeline.models import catalogue
from mspipeline.recipes.catalogue import AnyRecipe


@dataclass(frozen=True)
class Step:
    """One part of a cell's work.

    name: unique in the cell. job: of `python -m mspipeline.jobs`. processes: that share the work.
    """

    name: str
    job: Literal["train", "evaluate"]
    config: TrainJob | EvaluateJob
    device: str
    processes: int = 1


@dataclass(frozen=True)
class Cell:
    """One cell of a sweep: its name, unique in the campaign, and its work.

    evaluate_device: None is the training's. stages: of a cascade, each of which is a step of its own; 1 is one step.
    """

    id: str
    train: TrainJob
    evaluate: EvaluateJob
    processes: int = 1
    evaluate_device: str | None = None
    stages: int = 1

    @property
    def steps(self) -> tuple[Step, ...]:
        """What is run, in this order, each only if the one before it went well."""
        numbers = range(1, self.stages + 1) if self.stages > 1 else ()
        parts = [(f"train-stage{each}", self.train.model_copy(update={"stage": each})) for each in numbers]
        return (
            *(
                Step(name, "train", config, config.device, self.processes)
                for name, config in parts or [("train", self.train)]
            ),
            Step("evaluate", "evaluate", self.evaluate, self.evaluate_device or self.train.device),
        )


def cells(sweep: Sweep, shards: Path, campaign_folder: Path, recipe: AnyRecipe) -> list[Cell]:
    """The cells of a sweep, in the order of its matrix; each writes to `campaign_folder`/cells/<id>.

    The id says what tells the cells apart: model, backend, then of device, overrides and processes those of which the
    matrix has several, seed. Cells of a network that runs on several backends look for certificates in
    `campaign_folder`/certificates. recipe: of the shards.
    Raises ConfigError as `check` does, and where an override's value does not fit.
    """
    check(sweep)
    combinations = combinations_of(sweep)
    backends: dict[tuple[Any, ...], set[str]] = {}
    for each in combinations:
        backends.setdefault(_network(each), set()).add(each["backend"])
    training = sweep.training.model_dump()
    words = _words(sweep)
    found: dict[str, Cell] = {}
    for combination in combinations:
        cell_id = _id(sweep, combination, words)
        if cell_id in found:
            raise ConfigError(f"matrix.overrides: two cells would be called {cell_id}; choose values that read apart")
        model = combination["model"]
        run_folder = campaign_folder / "cells" / cell_id
        document: dict[str, Any] = {
            "model": {"name": model, "arguments": sweep.models.get(model, {})},
            **{axis: combination[axis] for axis in ("backend", "device", "seed")},
            **({"processes": combination["processes"]} if combination["processes"] > 1 else {}),
            "threads": sweep.threads,
            "checkpoint_every_s": sweep.checkpoint_every_s,
            "training": training,
        }
        for key in sweep.matrix.overrides:
            if key in combination:
                document = _replaced(document, _path(key), combination[key])
        settings = parse(document | {"shards": shards, "run_folder": run_folder}, TrainJob, where="matrix.overrides")
        catalogue.check_arguments(model, settings.model.arguments)
        train = settings.model_copy(
            update={
                "certificates": campaign_folder / "certificates" if len(backends[_network(combination)]) > 1 else None,
                "campaign": sweep.name,
                "cell": cell_id,
            }
        )
        found[cell_id] = Cell(
            cell_id,
            train,
            EvaluateJob(
                run_folder=run_folder,
                shards=shards,
                subsets=sweep.evaluate.subsets,
                checkpoint=sweep.evaluate.checkpoint,
                device=sweep.evaluate.device or train.device,
                threads=train.threads,
                batch_size=recipe.evaluation_batch_size(train.training),
            ),
            processes=combination["processes"],
            evaluate_device=sweep.evaluate.device,
            stages=recipe.stages(train.training) if sweep.separate_jobs else 1,
        )
    return list(found.values())


def _network(combination: Combination) -> tuple[Any, ...]:
    """What tells one network from another: its name and the arguments that the matrix varies."""
    return (combination["model"], *(each for each in combination.items() if each[0].startswith("models.")))


def _path(key: str) -> tuple[str, ...]:
    """Where an override goes in a TrainJob."""
    if key.startswith("models."):
        return ("model", "arguments", key.split(".", 2)[2])
    return tuple(key.split("."))


def _replaced(document: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy of nested tables with one value replaced."""
    first, *rest = path
    return {**document, first: _replaced(document.get(first, {}), tuple(rest), value) if rest else value}


def _words(sweep: Sweep) -> dict[str, str]:
    """What stands in an id for each override that tells cells apart: its last word, where that is its alone."""
    keys = [key for key, values in sweep.matrix.overrides.items() if len(values) > 1]
    last = [key.rpartition(".")[2] for key in keys]
    return {key: word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)}


def _id(sweep: Sweep, combination: Combination, words: Mapping[str, str]) -> str:
    """A cell's name: letters, digits and `._-`, so that it names a folder too."""
    matrix = sweep.matrix
    parts = [combination["model"], combination["backend"]]
    parts += [combination["device"]] if len(matrix.device) > 1 else []
    parts += [f"{word}{_short(combination[key])}" for key, word in words.items() if key in combination]
    parts += [f"p{combination['processes']}"] if len(matrix.processes) > 1 else []
    return "-".join([*parts, f"s{combination['seed']}"])


def _short(value: Scalar) -> str:
    """A value as it stands in an id.

    >>> [_short(value) for value in (8, 1e-4, 1e-05, True, "full mem")]
    ['8', '0.0001', '1e_05', 'true', 'full_mem']
    """
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._") else "_" for letter in text)
