"""A trained run, ready to predict: its graph rebuilt from `run.json`, its weights from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mspipeline.backends.base import Backend, Execution
from mspipeline.backends.registry import create
from mspipeline.config import parse
from mspipeline.errors import RunFolderError
from mspipeline.models.catalogue import build
from mspipeline.preprocess.recipe import Recipe
from mspipeline.runs import RunPaths, RunRecord, read_record
from mspipeline.training.checkpoint import read_checkpoint


@dataclass(frozen=True)
class TrainedRun:
    """A run folder's record and recipe, and the backend with the trained network in it."""

    record: RunRecord
    recipe: Recipe
    backend: Backend


def load_trained(folder: Path, checkpoint: Literal["best", "last"], execution: Execution) -> TrainedRun:
    """The network of a run folder, on the backend it was trained with.

    Raises RunFolderError where the folder, its record or its checkpoint cannot be used, BackendError where the backend
    is absent.
    """
    paths = RunPaths(folder)
    record = read_record(paths)
    recipe = parse(record.recipe, Recipe, where=f"{paths.record}: recipe")
    graph = build(record.model, recipe.image_shape, record.model_arguments)
    file = paths.best if checkpoint == "best" else paths.last
    stored = read_checkpoint(file)
    if stored.graph_hash != graph.hash:
        raise RunFolderError(
            f"{file}: holds weights of graph {stored.graph_hash[:12]}, but {record.model} builds {graph.hash[:12]} in "
            "this version; predict with the version that trained it"
        )
    backend = create(record.backend)
    backend.build(graph, execution)
    backend.set_weights(stored.weights)
    return TrainedRun(record, recipe, backend)
