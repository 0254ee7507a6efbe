"""A trained run, ready to predict: its graph rebuilt from `run.json`, its weights from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mspipeline.backends.base import Backend, Execution
from mspipeline.backends.registry import create
from mspipeline.config import Inference, parse
from mspipeline.errors import RunFolderError
from mspipeline.labels import Channels, channels_of
from mspipeline.models.stored import graph_of_run
from mspipeline.network.graph import Graph
from mspipeline.preprocess.patches3d import PatchRecipe
from mspipeline.preprocess.recipe import Recipe
from mspipeline.runs import CascadeSettings, RunPaths, RunRecord, read_record
from mspipeline.training.checkpoint import read_checkpoint

if TYPE_CHECKING:
    from mspipeline.inference.voxelwise import VoxelNetwork


@dataclass(frozen=True)
class TrainedRun:
    """A run folder's record and recipe, and the backend with the trained network in it, whose output has `channels`."""

    record: RunRecord
    recipe: Recipe
    backend: Backend
    channels: Channels

    @property
    def device(self) -> str:
        """What computes, as the framework names it."""
        return self.backend.device


@dataclass(frozen=True)
class TrainedCascade:
    """The same of a run of several stages on patches. stages: one network each, in their order."""

    record: RunRecord
    settings: CascadeSettings
    recipe: PatchRecipe
    stages: tuple[VoxelNetwork, ...]

    @property
    def device(self) -> str:
        """What computes, as the framework names it."""
        return self.stages[0].backend.device


def load_trained(folder: Path, checkpoint: Literal["best", "last"], execution: Execution) -> TrainedRun:
    """The network of a run folder, on the backend it was trained with.

    Raises RunFolderError where the folder, its record or its checkpoint cannot be used or it is a cascade's,
    ShapeError where the network gives no probabilities of labels, BackendError where the backend is absent.
    """
    paths = RunPaths(folder)
    record = read_record(paths)
    if record.cascade is not None:
        raise RunFolderError(f"{folder}: a cascade on patches, expected a network on slices; use `mspipeline predict`")
    recipe = parse(record.recipe, Recipe, where=f"{paths.record}: recipe")
    file = paths.best if checkpoint == "best" else paths.last
    graph = graph_of_run(folder, record, recipe.image_shape)
    channels = channels_of(graph, recipe.image_shape[:-1])
    return TrainedRun(record, recipe, _network(graph, record, file, execution), channels)


def load_cascade(
    folder: Path,
    checkpoint: Literal["best", "last"],
    execution: Execution,
    *,
    inference: Inference = "auto",
    memory_budget_mb: int = 1024,
) -> TrainedCascade:
    """The stages of a run folder of a cascade. Raises as `load_trained`, where it is none, and as `VoxelNetwork`."""
    from mspipeline.inference.voxelwise import VoxelNetwork  # loads numba, which takes a while

    paths = RunPaths(folder)
    record = read_record(paths)
    if record.cascade is None:
        raise RunFolderError(f"{folder}: one network on slices, expected a cascade")
    recipe = parse(record.recipe, PatchRecipe, where=f"{paths.record}: recipe")
    graph = graph_of_run(folder, record, recipe.image_shape)
    backends = [
        _network(graph, record, paths.stage(number, checkpoint), execution)
        for number in range(1, record.cascade.stages + 1)
    ]
    stages = tuple(
        VoxelNetwork(backend, graph, execution, inference=inference, memory_budget_mb=memory_budget_mb)
        for backend in backends
    )
    return TrainedCascade(record, record.cascade, recipe, stages)


def load_any(
    folder: Path,
    checkpoint: Literal["best", "last"],
    execution: Execution,
    *,
    inference: Inference = "auto",
    memory_budget_mb: int = 1024,
) -> TrainedRun | TrainedCascade:
    """What a run folder holds, one network or a cascade. Raises as `load_trained` and `load_cascade`.

    inference, memory_budget_mb: of a cascade; without effect on slices.
    """
    if read_record(RunPaths(folder)).cascade is None:
        return load_trained(folder, checkpoint, execution)
    return load_cascade(folder, checkpoint, execution, inference=inference, memory_budget_mb=memory_budget_mb)


def _network(graph: Graph, record: RunRecord, file: Path, execution: Execution) -> Backend:
    """The network of a record with the weights of a checkpoint."""
    stored = read_checkpoint(file)
    if stored.graph_hash != graph.hash:
        raise RunFolderError(
            f"{file}: holds weights of graph {stored.graph_hash[:12]}, but {record.model} builds {graph.hash[:12]} in "
            "this version; predict with the version that trained it"
        )
    backend = create(record.backend)
    backend.build(graph, execution)
    backend.set_weights(stored.weights)
    return backend
